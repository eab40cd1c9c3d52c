"""The package's logger, and texts of exceptions. Neither raises if the user's code fails.

Filters, handlers, formatters, record factories, `__str__` and `__repr__` are the user's code. If
one of them raises, the delivery, the run or the thread that logged goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import suppress
from traceback import format_exception, format_exception_only
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType, TracebackType
    from typing import TypeAlias, TypeVar

    E = TypeVar("E", bound=BaseException)
    ExcInfo: TypeAlias = (
        BaseException | tuple[type[BaseException], BaseException, TracebackType | None]
    )

__all__ = [
    "SafeLogger", "get_logger", "is_interrupt", "shorten_traceback", "show_log_by_default",
    "summary_of", "text_of", "traceback_of", "without_own_frames",
]  # fmt: skip

# The folder of this package, as the frames of its functions name it.
_FOLDER = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - `pathlib` is slow to import
# The frames of `SafeLogger` between the caller and `logging`.
_STACK_LEVEL = 3
# The loggers that servers print their own start and stop with.
_SERVER_LOGGERS = ("gunicorn.error", "uvicorn.error", "hypercorn.error", "_granian")


class SafeLogger:
    """A logger whose methods raise nothing but a real Ctrl-C."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def is_enabled_for(self, level: int) -> bool:
        """Return whether a record of this level is logged; False if that cannot be determined."""
        try:
            _leave_log_to_user()
            # A record that nobody sees costs more than a whole rejected request.
            handler = _default
            is_enabled = self._logger.isEnabledFor(level)
            return is_enabled and (handler is None or handler.shows(level))
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
        exc_info: ExcInfo | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Log something that may need attention."""
        self._log(logging.WARNING, message, values, exc_info, extra)

    def error(
        self,
        message: str,
        *values: object,
        exc_info: ExcInfo | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Log a failure."""
        self._log(logging.ERROR, message, values, exc_info, extra)

    def exception(self, message: str, *values: object) -> None:
        """Log the exception of the user's code that is being handled."""
        error = sys.exc_info()[1]
        shown = None if error is None else without_own_frames(error)
        self._log(logging.ERROR, message, values, shown, None)

    def _log(
        self,
        level: int,
        message: str,
        values: tuple[object, ...],
        exc_info: ExcInfo | None,
        extra: Mapping[str, object] | None,
    ) -> None:
        try:
            _leave_log_to_user()
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


# ---- the default output ------------------------------------------------------------------------


class _Formatter(logging.Formatter):
    """Format a record as uvicorn does, but without colours."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - a name of `logging`
        return f"{record.levelname + ':':<9} {record.message}"


_FORMATTER = _Formatter()
# Hypercorn configures its log only after the app has started.
_HYPERCORN_FORMATTER = logging.Formatter(
    "%(asctime)s [%(process)d] [%(levelname)s] %(message)s", "[%Y-%m-%d %H:%M:%S %z]"
)


class _DefaultHandler(logging.Handler):
    """Show records in the style of the server's own log, or else as uvicorn would.

    Args:
        is_server_quiet: ignore the level of the server's log.
    """

    def __init__(self, *, is_server_quiet: bool) -> None:
        super().__init__()
        self.has_set_level = False
        """Whether this package set the level of the logger, not the user."""
        self._is_server_quiet = is_server_quiet

    def shows(self, level: int) -> bool:
        """Return whether a record of this level is shown."""
        server = self._server_logger()
        return server is None or self._is_server_quiet or server.isEnabledFor(level)

    def _server_logger(self) -> logging.Logger | None:
        # Looked up anew each time, because of hypercorn.
        for name in _SERVER_LOGGERS:
            server = logging.getLogger(name)
            if server.hasHandlers():
                return server
        return None

    def emit(self, record: logging.LogRecord) -> None:
        server = self._server_logger()
        if server is not None:
            if self.shows(record.levelno):
                server.callHandlers(record)
            return
        if sys.stderr is not None:
            is_hypercorn = "hypercorn.config" in sys.modules
            line = (_HYPERCORN_FORMATTER if is_hypercorn else _FORMATTER).format(record)
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - as a stream handler does


_package_logger = logging.getLogger("hubhooks")
_default: _DefaultHandler | None = None
_defaulting = threading.Lock()


def show_log_by_default(*, is_server_quiet: bool = False) -> None:
    """Show the package's log from INFO on, unless the user configured logging.

    A level that the user set, before or after, decides what is shown. If the user adds a
    handler to this logger or to the root logger, the default handler is removed.

    Args:
        is_server_quiet: show INFO even if the server shows only warnings, as under Gradio.
    """
    global _default  # noqa: PLW0603 - there is one log in a process
    with _defaulting:
        logger, root = logging.getLogger("hubhooks"), logging.getLogger()
        if _default is not None or logger.handlers or root.handlers or not logger.propagate:
            return
        handler = _DefaultHandler(is_server_quiet=is_server_quiet)
        if logger.level == logging.NOTSET and root.level == logging.WARNING:
            logger.setLevel(logging.INFO)
            handler.has_set_level = True
        logger.addHandler(handler)
        _default = handler


def _leave_log_to_user() -> None:
    """Remove the default handler and its level once there is a handler of the user."""
    global _default  # noqa: PLW0603 - there is one log in a process
    handler = _default
    if handler is None:
        return
    # Each request comes here, and `getLogger` takes a lock.
    logger = _package_logger
    if logging.root.handlers or logger.handlers != [handler]:
        logger.removeHandler(handler)
        if handler.has_set_level and logger.level == logging.INFO:
            logger.setLevel(logging.NOTSET)
        _default = None


# ---- texts -------------------------------------------------------------------------------------


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
    """Return the traceback as text, or only its last line if it cannot be formatted.

    It begins in the user's code.
    """
    try:
        return "".join(format_exception(*without_own_frames(error)))
    except BaseException as failure:
        if is_interrupt(failure):
            raise
        return summary_of(error)


def without_own_frames(
    error: BaseException,
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return what `logging` takes as `exc_info`, without our frames that called the user's code.

    If all frames are ours, none is left out.
    """
    # Not `error.__traceback__`: a class of the user may define it.
    whole: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
    shown = whole
    while shown is not None and _is_own(shown.tb_frame):
        shown = shown.tb_next
    return type(error), error, shown or whole


def shorten_traceback(error: E) -> E:
    """Drop the traceback of an error if all its frames are ours: its message says everything."""
    traceback = error.__traceback__
    while traceback is not None:
        if not _is_own(traceback.tb_frame):
            return error
        traceback = traceback.tb_next
    return error.with_traceback(None)


def _is_own(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_FOLDER)


def _type_name(value: object) -> str:
    # Not `type(value).__name__`: a metaclass may define it.
    return str(type.__dict__["__name__"].__get__(type(value)))
