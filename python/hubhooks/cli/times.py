"""Times on the command line."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from hubhooks.cli.output import TIME_UNITS
from hubhooks.errors import ConfigError

__all__ = ["WHEN_HELP", "parse_time"]

WHEN_HELP = "2h for two hours ago (units: s, m, h, d, w), or a time such as 2026-07-31T14:00."
_SPAN = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(TIME_UNITS)}])")


def parse_time(text: str) -> datetime:
    """Parse a time span before now, or an ISO 8601 time. Without a zone, the time is local."""
    try:
        if span := _SPAN.fullmatch(text.strip()):
            ago = timedelta(seconds=float(span[1]) * TIME_UNITS[span[2]])
            return datetime.now(timezone.utc) - ago
        # Python 3.10 does not parse "Z".
        return datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text.strip())).astimezone()
    except (ValueError, OverflowError, OSError):
        msg = f"`{text}` is not a time; write {WHEN_HELP}"
        raise ConfigError(msg) from None
