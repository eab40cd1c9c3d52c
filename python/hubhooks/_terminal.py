"""Helpers of the commands: printing, error messages and tables.

Functions import the libraries of the extra `cli` themselves: this module works without the extra.
"""

from __future__ import annotations

import io
import json
import select
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from _typeshed import ReadableBuffer
    from rich.console import Console, RenderableType
    from rich.table import Table

__all__ = [
    "WIDE", "blank_controls", "escape_controls", "flush_output", "guarded_output", "new_table",
    "print_error", "print_escaped", "print_line", "print_trimmed", "shown_id_length",
    "single_line", "terminal", "usage_errors",
]  # fmt: skip

WIDE = 120
"""The smallest width of a terminal at which tables have all columns."""

_UNFOLDED = 1000
_SHORTEST_ID = 8
# Commands accept the beginning of an id, so a long id may be cut.
_CUT = frozenset({"id"})
# People copy these values or scan them, so they are never folded.
_WHOLE = frozenset({"age", "name", "received", "sample", "state"})


def print_error(message: str, hint: str = "") -> None:
    """Print what went wrong and, as a hint, what to do about it."""
    sys.stderr.write(f"hubhooks: {message}\n" + (f"hint: {hint}\n" if hint else ""))


def print_line(text: str) -> None:
    """Print a line of data."""
    # Not `typer.echo`, which writes UTF-8 where the encoding of the output is ASCII.
    sys.stdout.write(f"{text}\n")


def print_escaped(text: str) -> None:
    """Print text in a process of the user, and escape characters that the encoding lacks."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201 - it is for the user to read


class _GuardedStream(io.RawIOBase):
    """Write to a stream, and drop all output after the first error.

    A command then runs to its end and exits with its own code, for example when `head` has read
    enough.

    Args:
        raw: the stream, or None if the process has none.
    """

    def __init__(self, raw: io.RawIOBase | None) -> None:
        self._raw = raw
        self._is_broken = raw is None
        self.failure = ""
        """Why the output is incomplete; empty if it is complete or the reader closed the pipe."""

    @property
    def is_broken(self) -> bool:
        """True if nothing can be written any more."""
        return self._is_broken

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        return super().fileno() if self._raw is None else self._raw.fileno()

    def write(self, data: ReadableBuffer, /) -> int:
        if self._raw is not None and not self._is_broken:
            try:
                while (written := self._raw.write(data)) is None:
                    # Another program with the same output made it non-blocking.
                    select.select([], [self._raw], [])
            except OSError as error:
                self._is_broken = True
                if not isinstance(error, BrokenPipeError):
                    self.failure = error.strerror or str(error)
            else:
                return written
        return memoryview(data).nbytes


def flush_output() -> bool:
    """Flush stdout; return False if nobody reads it any more, as after `head`."""
    sys.stdout.flush()
    guard = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return not (isinstance(guard, _GuardedStream) and guard.is_broken)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Keep printing inside the block free of errors.

    Characters that the encoding lacks are printed as escapes. If the output cannot be written, for
    example on a full disk, the process exits with 1. A closed pipe is no error.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, guard = _guarded(sys.stdout)
    sys.stderr, _ = _guarded(sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        if guard.failure:
            print_error(f"cannot write to standard output: {guard.failure}")
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams
        if guard.failure:
            raise SystemExit(1)


def _guarded(stream: TextIO | None) -> tuple[TextIO, _GuardedStream]:
    buffer = getattr(stream, "buffer", None)
    # Unbuffered output has no raw stream below the binary stream.
    guard = _GuardedStream(cast("io.RawIOBase | None", getattr(buffer, "raw", buffer)))
    if stream is not None and buffer is None:
        # A text stream in memory, for example in a test, accepts every character.
        return stream, guard
    text = io.TextIOWrapper(
        io.BufferedWriter(guard),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )
    return text, guard


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a wrong option into a usage error, which exits with 2."""
    import typer  # noqa: PLC0415 - see above

    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def terminal() -> Console:
    """Return a console as wide as the terminal; in a pipe or a file, each row is one line."""
    from rich.console import Console  # noqa: PLC0415 - see above

    return Console(width=None if sys.stdout.isatty() else _UNFOLDED)


def new_table(*columns: str) -> Table:
    """Create a table with these columns."""
    from rich import box  # noqa: PLC0415 - see above
    from rich.table import Table  # noqa: PLC0415 - see above

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            column,
            overflow="ellipsis" if column in _CUT else "fold",
            no_wrap=column in _WHOLE,
        )
    return table


def print_trimmed(console: Console, block: RenderableType) -> None:
    """Print a table or an indented text; in a pipe or a file, no line ends with blanks."""
    if sys.stdout.isatty():
        console.print(block)
        return
    with console.capture() as capture:
        console.print(block)
    for line in capture.get().removesuffix("\n").split("\n"):
        print_line(line.rstrip())


def shown_id_length(ids: Sequence[str]) -> int | None:
    """Return how many characters of each id to print: all in a pipe, else enough to differ.

    People type the beginning of an id; scripts read the whole id.
    """
    if not sys.stdout.isatty():
        return None
    different = set(ids)
    length = _SHORTEST_ID
    while len({item[:length] for item in different}) < len(different):
        length += 1
    return length


def single_line(text: str) -> str:
    """Put an untrusted text on one line, without control characters."""
    return " ".join(blank_controls(text).split())


def blank_controls(text: str) -> str:
    """Replace each control character of an untrusted text by a blank."""
    return "".join(char if char.isprintable() else " " for char in text)


def escape_controls(text: str) -> str:
    """Escape the control characters of an untrusted text as JSON does, except line breaks."""
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )
