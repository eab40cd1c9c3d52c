"""Record what handlers print and return; `hubhooks dev` turns it on.

`current` is the recording of the run in this context. Threads that a handler starts have none.
"""

from __future__ import annotations

import reprlib
from contextvars import ContextVar

from hubhooks._logging import is_interrupt

__all__ = [
    "LONGEST_OUTPUT",
    "LONGEST_RESULT",
    "Recording",
    "current",
    "is_on",
    "last_state",
    "start",
    "turn_on",
]

# The longest recorded output and result, in characters.
LONGEST_OUTPUT = 16 * 1024
LONGEST_RESULT = 2 * 1024

_CUT = "\n... (cut)"


class Recording:
    """The output and the result of one attempt."""

    __slots__ = ("_is_closed", "_length", "_parts", "result")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._is_closed = False
        self.result: str | None = None
        """The `repr` of the result; None if the handler returned None."""

    def write(self, text: str) -> None:
        """Add printed text. Text beyond the limit, or after the end of the attempt, is dropped."""
        if self._is_closed or not text:
            return
        self._parts.append(text[: LONGEST_OUTPUT - self._length])
        self._length += len(text)
        if self._length > LONGEST_OUTPUT:
            self._parts.append(_CUT)
            self._is_closed = True

    def set_result(self, value: object) -> None:
        """Record what the handler returned."""
        if value is not None:
            self.result = _storable(_short_repr(value))[:LONGEST_RESULT]

    def close(self) -> str | None:
        """Return the printed text, and drop later text. None if nothing was printed."""
        self._is_closed = True
        lines = "".join(self._parts).split("\n")
        return _storable("\n".join(map(last_state, lines))) or None


def last_state(line: str) -> str:
    """Return a line as a terminal shows it at last: progress bars overwrite it."""
    return line.rstrip("\r").rpartition("\r")[2]


current: ContextVar[Recording | None] = ContextVar("hubhooks_recording", default=None)
_is_on = False


def turn_on() -> None:
    """Record all later attempts of this process."""
    global _is_on  # noqa: PLW0603 - one process runs one app
    _is_on = True


def is_on() -> bool:
    """Return whether attempts are recorded."""
    return _is_on


def start() -> Recording:
    """Start the recording of an attempt, in the context of its handler."""
    recording = Recording()
    current.set(recording)
    return recording


class _Repr(reprlib.Repr):
    """The `repr` of containers is cut, so that a large result costs little."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 50
        self.maxfrozenset = self.maxdeque = self.maxarray = 50
        self.maxstring = self.maxother = self.maxlong = LONGEST_RESULT


def _short_repr(value: object) -> str:
    try:
        return _Repr().repr(value)
    except BaseException as error:
        # `__repr__` is the user's code.
        if is_interrupt(error):
            raise
        return f"<a result whose `repr` raises {type(error).__name__}>"


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
