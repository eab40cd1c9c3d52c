"""The command line `hubhooks`; it needs the extra `cli`."""

from hubhooks.cli.main import main, make_app

__all__ = ["main", "make_app"]
