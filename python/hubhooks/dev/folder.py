"""The folder `.hubhooks`: the secrets that `hubhooks dev` made for an app."""

from __future__ import annotations

import os
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hubhooks import _environment
from hubhooks.errors import ConfigError

__all__ = ["FOLDER", "KeptSecrets", "keep_secrets", "read_kept"]

FOLDER = ".hubhooks"

_FILES = {_environment.SECRET: "webhook_secret", _environment.ADMIN_TOKEN: "admin_token"}
_BYTES = 24
_LONGEST = 1024
# The page accepts no shorter token.
_SHORTEST = {_FILES[_environment.ADMIN_TOKEN]: 16}
_WRITE_SECONDS = 1.0


class KeptSecrets(NamedTuple):
    """The secrets of an app under `hubhooks dev`."""

    webhook_secret: str
    """The one of the folder. The app accepts it besides its own."""
    page_token: str
    """Opens the page. It is always the one of the folder, because it is printed."""
    made: tuple[str, ...]
    """The variables whose values come from the folder."""

    def variables(self) -> dict[str, str]:
        """Return the variables to set for the app."""
        values = {
            _environment.SECRET: self.webhook_secret,
            _environment.ADMIN_TOKEN: self.page_token,
        }
        return {name: values[name] for name in self.made}


def keep_secrets(parent: Path) -> KeptSecrets:
    """Read the secrets of the folder below `parent`, or make them.

    Raises:
        ConfigError: the folder cannot be used, or a file in it holds no secret.
    """
    folder = parent / FOLDER
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _check_owner(folder, folder.lstat(), is_folder=True)
        folder.chmod(0o700)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", "utf-8")
            ignore.chmod(0o600)
        kept = {name: _read_or_make(folder / file) for name, file in _FILES.items()}
    except OSError as error:
        msg = f"cannot keep secrets in `{folder}`: {error.strerror}"
        raise ConfigError(msg) from error
    return KeptSecrets(
        kept[_environment.SECRET],
        kept[_environment.ADMIN_TOKEN],
        tuple(name for name in _FILES if _environment.read(name) is None),
    )


def read_kept(variable: str) -> str | None:
    """Return the secret that `hubhooks dev` made for the app in the working directory.

    Args:
        variable: the environment variable that would have it.

    Returns:
        None if there is none, or if another user owns the folder or the file.
    """
    folder = Path(FOLDER)
    try:
        _check_owner(folder, folder.lstat(), is_folder=True)
        return _read(folder / _FILES[variable])
    except (OSError, ConfigError):
        return None


def _read_or_make(path: Path) -> str:
    try:
        # The file is created with its mode, so no other user can read it for a moment.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        # Another first start may be writing it.
        until = time.monotonic() + _WRITE_SECONDS
        while path.lstat().st_size == 0 and time.monotonic() < until:
            time.sleep(0.01)
        secret = _read(path)
        path.chmod(0o600)
        return secret
    secret = secrets.token_urlsafe(_BYTES)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secret)
    return secret


def _read(path: Path) -> str:
    _check_owner(path, path.lstat(), is_folder=False)
    with path.open("rb") as file:
        text = file.read(_LONGEST + 1).decode("ascii", "replace").strip()
    shortest = _SHORTEST.get(path.name, 1)
    is_valid = text.isascii() and text.isprintable() and shortest <= len(text) <= _LONGEST
    if not is_valid:
        wanted = f" of {shortest} to {_LONGEST} characters" if text else ""
        msg = (
            f"`{path}` has no secret{wanted}: delete it, and the next `hubhooks dev` makes a new "
            "one"
        )
        raise ConfigError(msg)
    return text


def _check_owner(path: Path, status: os.stat_result, *, is_folder: bool) -> None:
    """Check that nobody else made a folder or a file, and that it is no link."""
    is_kind = stat.S_ISDIR if is_folder else stat.S_ISREG
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    if not (is_kind(status.st_mode) and is_own):
        what = "folder" if is_folder else "file"
        msg = f"`{path}` must be a {what} of this user, and no link: remove it"
        raise ConfigError(msg)
