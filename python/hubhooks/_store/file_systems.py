"""The path of a store: where it may be, and how its file is created."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hubhooks.errors import ConfigError

__all__ = ["create_file", "find_network", "refuse_network", "require_file", "resolve_path"]

_MOUNTS = Path("/proc/self/mountinfo")
# Before the separator: ids, device, root, mount point, options. More fields may follow.
_MOUNT_FIELDS = 6
# A space in a mount point is written `\040`.
_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")
_NETWORK = re.compile(
    r"fuse|nfs|cifs|smb|9p$|ceph|glusterfs|afs$|lustre|beegfs|gpfs|davfs|coda$|ncpfs|orangefs|"
    r"pvfs2|panfs|wekafs|vboxsf|vmhgfs|prl_fs"
)
# A program provides a `fuse` file system. Its name often follows. These programs use a local disk
# or folder. Any other one may be remote: buckets are mounted as `fuse` or `fuse.s3fs`.
_LOCAL_FUSE = re.compile(
    r"fuseblk|fuse\.(fuse-overlayfs|(unionfs|mergerfs|mhddfs|bindfs|gocryptfs|encfs|cryfs|"
    r"securefs|ntfs|ntfs-3g|lowntfs-3g|exfat|fuse2fs|fuse-?ext2|ext[234]|lklfuse|apfs|zfs|lxcfs)"
    r"(-fuse)?$)"
)


def resolve_path(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a store, links resolved.

    It stays right if the working directory changes, or if a link leads to a file that does not
    exist yet.

    Raises:
        ConfigError: the path cannot be used.
    """
    given = Path(path)
    if "\0" in str(given):
        msg = f"the delivery store {str(given)!r} has a zero byte in its path: give another path"
        raise ConfigError(msg)
    try:
        return str(given.resolve())
    except FileNotFoundError as error:
        msg = (
            f"the delivery store `{path}` has a path relative to the working directory, which was "
            "removed: start in a folder that exists, or give an absolute path"
        )
        raise ConfigError(msg) from error
    # Before Python 3.13, links that lead to each other raise `RuntimeError`.
    except (OSError, RuntimeError) as error:
        msg = f"the path of the delivery store `{path}` cannot be used: {error}"
        raise ConfigError(msg) from error


def create_file(path: str) -> None:
    """Create a file that only its owner can read, unless it exists.

    SQLite gives the `-wal` and `-shm` files the same mode.

    Raises:
        ConfigError: the path cannot be used.
    """
    # An existing file is not opened: closing it again would drop SQLite's locks on it for this
    # process, as POSIX requires.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        require_file(path)
    except FileNotFoundError as error:
        folder = Path(path).parent
        msg = f"`{path}` cannot be created: there is no folder `{folder}`; create it first"
        raise ConfigError(msg) from error
    except OSError as error:
        why = (error.strerror or "").lower()
        msg = f"the delivery store `{path}` cannot be created ({why}): give another path"
        raise ConfigError(msg) from error


def require_file(path: str) -> None:
    """Raise `ConfigError` if something other than a file is at a path."""
    found = Path(path)
    if found.is_dir():
        msg = f"the delivery store `{path}` is a folder: give the path of a file"
        raise ConfigError(msg)
    # SQLite would read from a pipe or a device, or create files beside it.
    if found.exists() and not found.is_file():
        msg = f"the delivery store `{path}` is not a regular file: give the path of a file"
        raise ConfigError(msg)


def refuse_network(path: str) -> None:
    """Raise `ConfigError` for a file system on which SQLite's locks are not reliable."""
    if kind := find_network(path):
        msg = (
            f"the delivery store `{path}` is on a network file system ({kind}), where it can lose "
            "deliveries: give a path on a local disk. To use it anyway, set `allow_network=True` "
            "or HUBHOOKS_ALLOW_NETWORK=1"
        )
        raise ConfigError(msg)


def find_network(path: str) -> str:
    """Return the kind of the network file system that a path is on; empty if it is on none."""
    # The `-wal` and `-shm` files are in the folder. The file itself may be a mount of its own.
    for place in (Path(path), Path(path).parent):
        kind = _file_system_at(place)
        if _NETWORK.match(kind) and not _LOCAL_FUSE.match(kind):
            return kind
    return ""


def _file_system_at(place: Path) -> str:
    """Return the kind of file system that a place is on; empty if it cannot be determined."""
    try:
        mounts = _MOUNTS.read_bytes()
    except OSError:
        return ""
    deepest, kind = 0, ""
    for mount in mounts.split(b"\n"):
        before, _, after = mount.partition(b" - ")
        fields = before.split(b" ")
        # Skip a line of an unknown form.
        if len(fields) < _MOUNT_FIELDS or not after:
            continue
        point = os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), fields[4]))
        # Of two mounts at the same point, the later one hides the earlier one.
        if len(point) >= deepest and place.is_relative_to(point):
            deepest, kind = len(point), os.fsdecode(after.split(b" ")[0])
    return kind
