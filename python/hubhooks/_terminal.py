"""What the commands share: how they print, complain, and read options.

The libraries it needs come with the extra `cli`, so it imports them where it uses them.
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
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "WIDE", "complain", "guarded_output", "new_table", "one_line", "print_escaped", "print_line",
    "shown_id_length", "terminal", "usage_errors", "visible",
]  # fmt: skip

WIDE = 120
"""From this width on a table has all its columns."""

_UNFOLDED = 1000
_SHORTEST_ID = 8
# Of a long id the beginning tells enough.
_CUT = frozenset({"id"})
# These stay whole: they are copied, or read at a glance.
_WHOLE = frozenset({"age", "name", "received", "sample", "state"})


def complain(message: str, hint: str = "") -> None:
    """Tell what went wrong, and what to do about it."""
    sys.stderr.write(f"hubhooks: {message}\n" + (f"hint: {hint}\n" if hint else ""))


def print_line(text: str) -> None:
    """Print a line of data."""
    # Not `typer.echo`, which writes UTF-8 where the encoding of the output is ASCII.
    sys.stdout.write(f"{text}\n")


def print_escaped(text: str) -> None:
    """Print text in a process of the user, with escapes for characters that the encoding lacks."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201 - it is for the user to read


class _GuardedStream(io.RawIOBase):
    """Write to a stream, and after the first error to nowhere.

    So a command goes on to its end and its own exit code, such as when `head` has read enough.

    Args:
        raw: the stream; None where the process has none.
    """

    def __init__(self, raw: io.RawIOBase | None) -> None:
        self._raw = raw
        self._is_broken = raw is None
        self.failure = ""
        """Why the output is incomplete; empty if it is whole, or if nobody reads it any more."""

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
                    # Another program that has the same output open made it non-blocking.
                    select.select([], [self._raw], [])
            except OSError as error:
                self._is_broken = True
                if not isinstance(error, BrokenPipeError):
                    self.failure = error.strerror or str(error)
            else:
                return written
        return memoryview(data).nbytes


@contextmanager
def guarded_output() -> Iterator[None]:
    """Print to standard output and standard error without errors while the block runs.

    Characters that the encoding lacks are printed as escapes. Where the output cannot be written,
    such as on a full disk, the process exits with 1. A closed pipe is no error.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, guard = _guarded(sys.stdout)
    sys.stderr, _ = _guarded(sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        if guard.failure:
            complain(f"cannot write to standard output: {guard.failure}")
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams
        if guard.failure:
            raise SystemExit(1)


def _guarded(stream: TextIO | None) -> tuple[TextIO, _GuardedStream]:
    buffer = getattr(stream, "buffer", None)
    # Unbuffered output has no raw stream below the binary one.
    guard = _GuardedStream(cast("io.RawIOBase | None", getattr(buffer, "raw", buffer)))
    if stream is not None and buffer is None:
        # A text in memory, say of a test: it takes everything.
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
    """Turn what is wrong with an option into an error of the command line, which exits with 2."""
    import typer  # noqa: PLC0415 - see above

    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def terminal() -> Console:
    """Fold to the terminal's width; in a pipe or a file a row is one line."""
    from rich.console import Console  # noqa: PLC0415 - see above

    return Console(width=None if sys.stdout.isatty() else _UNFOLDED)


def new_table(*columns: str) -> Table:
    """Begin a table."""
    from rich import box  # noqa: PLC0415 - see above
    from rich.table import Table  # noqa: PLC0415 - see above

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(
            column,
            overflow="ellipsis" if column in _CUT else "fold",
            no_wrap=column in _WHOLE,
        )
    return made


def shown_id_length(ids: Sequence[str]) -> int | None:
    """Return how many characters of each id to show: all in a pipe, else as many as differ.

    People write the beginning of an id, and scripts read all of it.
    """
    if not sys.stdout.isatty():
        return None
    different = set(ids)
    length = _SHORTEST_ID
    while len({one[:length] for one in different}) < len(different):
        length += 1
    return length


def one_line(text: str) -> str:
    """Put somebody else's text on one line, without what controls a terminal."""
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(line.split())


def visible(text: str) -> str:
    """Write what controls a terminal in somebody else's text, but for line breaks, as JSON does."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text
    )
