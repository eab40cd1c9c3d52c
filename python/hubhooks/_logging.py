"""The package's logger, and texts of exceptions. Neither raises, whatever the user's code does.

Filters, handlers, formatters, record factories, `__str__` and `__repr__` are the user's code. If
one of them raises, the delivery, the run or the thread that logged goes on.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from traceback import format_exception, format_exception_only
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SafeLogger", "get_logger", "is_interrupt", "summary_of", "text_of", "traceback_of"]

# The frames of `SafeLogger` between the caller and `logging`.
_STACK_LEVEL = 3


class SafeLogger:
    """A logger whose methods raise nothing but a real Ctrl-C."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def is_enabled_for(self, level: int) -> bool:
        """Return whether a record of this level is logged; False if that cannot be determined."""
        try:
            return self._logger.isEnabledFor(level)
        except BaseException as error:
            if is_interrupt(error):
                raise
            return False

    def info(
        self, message: str, *values: object, extra: Mapping[str, object] | None = None
    ) -> None:
        """Log what happened."""
        self._log(logging.INFO, message, values, None, extra)

    def warning(
        self,
        message: str,
        *values: object,
        exc_info: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Log something that may need attention."""
        self._log(logging.WARNING, message, values, exc_info, extra)

    def error(
        self,
        message: str,
        *values: object,
        exc_info: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Log a failure."""
        self._log(logging.ERROR, message, values, exc_info, extra)

    def exception(self, message: str, *values: object) -> None:
        """Log the exception that is being handled."""
        self._log(logging.ERROR, message, values, sys.exc_info()[1], None)

    def _log(
        self,
        level: int,
        message: str,
        values: tuple[object, ...],
        exc_info: BaseException | None,
        extra: Mapping[str, object] | None,
    ) -> None:
        try:
            self._logger.log(
                level, message, *values, exc_info=exc_info, extra=extra, stacklevel=_STACK_LEVEL
            )
        except BaseException as error:
            if is_interrupt(error):
                raise
            _report(error, message, values)


def get_logger() -> SafeLogger:
    """Return the package's logger."""
    return _logger


_logger = SafeLogger("hubhooks")


def _report(error: BaseException, message: str, values: tuple[object, ...]) -> None:
    """Print a record that could not be logged, as `logging` does for errors of its handlers."""
    with suppress(Exception):
        if logging.raiseExceptions and sys.stderr is not None:
            texts = (v if isinstance(v, int | float) else text_of(v) for v in values)
            lost = f"logging failed with {summary_of(error)}; the record was: "
            print("hubhooks: " + lost + message % tuple(texts), file=sys.stderr)  # noqa: T201 - there is no other place left


def is_interrupt(error: BaseException) -> bool:
    """Return whether it is a real Ctrl-C, which Python raises in the main thread only.

    A real Ctrl-C belongs to the server. Every other exception stays with the handler, also the
    `SystemExit` of a handler that calls `exit()`.
    """
    in_main = threading.current_thread() is threading.main_thread()
    # Not `isinstance`: it reads `__class__`, which an exception of the user may define.
    return in_main and issubclass(type(error), KeyboardInterrupt)


def text_of(value: object) -> str:
    """Return `str(value)` as an exact `str`, or a substitute if that raises."""
    try:
        # A subclass of `str` may override every method that is called later.
        return str.__str__(str(value))
    except BaseException as error:
        if is_interrupt(error):
            raise
        return f"<{_type_name(value)} without a readable text>"


def summary_of(error: BaseException) -> str:
    """Return the last line of a traceback: the exception's type and text."""
    try:
        return format_exception_only(error)[0].strip()
    except BaseException as failure:
        if is_interrupt(failure):
            raise
        return f"{_type_name(error)}: {text_of(error)}"


def traceback_of(error: BaseException) -> str:
    """Return the traceback as text, or only its last line if it cannot be formatted."""
    try:
        return "".join(format_exception(error))
    except BaseException as failure:
        if is_interrupt(failure):
            raise
        return summary_of(error)


def _type_name(value: object) -> str:
    # Not `type(value).__name__`: a metaclass may define it.
    return str(type.__dict__["__name__"].__get__(type(value)))
