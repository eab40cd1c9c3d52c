"""What the commands share: how they print, complain, and read options.

The libraries it needs come with the extra `cli`, so it imports them where it uses them.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

__all__ = ["WIDE", "complain", "new_table", "one_line", "terminal", "usage_errors", "visible"]

WIDE = 120
"""From this width on a table has all its columns."""

_UNFOLDED = 1000
# Of a long id the beginning tells enough.
_CUT = frozenset({"id"})
# These stay whole: they are copied, or read at a glance.
_WHOLE = frozenset({"age", "name", "received", "sample", "state"})


def complain(message: str, hint: str = "") -> None:
    """Tell what went wrong, and what to do about it."""
    sys.stderr.write(f"hubhooks: {message}\n" + (f"hint: {hint}\n" if hint else ""))


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

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(
            column,
            overflow="ellipsis" if column in _CUT else "fold",
            no_wrap=column in _WHOLE,
        )
    return made


def one_line(text: str) -> str:
    """Put somebody else's text on one line, without what controls a terminal."""
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(line.split())


def visible(text: str) -> str:
    """Write what controls a terminal in somebody else's text, but for line breaks, as JSON does."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text
    )
