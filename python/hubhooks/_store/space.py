"""Describe whether a store survives a restart, above all in a Space."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hubhooks import _environment
from hubhooks._logging import get_logger

if TYPE_CHECKING:
    from hubhooks._store.base import DeliveryStore

__all__ = ["describe_survival", "log_survival"]

logger = get_logger()

# The folder of the persistent disk of a Space, if one is attached.
_DISK = "/data/"
_ADVICE = (
    "to keep unfinished deliveries, set HUBHOOKS_DELIVERIES to a file on a persistent disk, or use "
    '`acknowledge="on_completion"`'
)


def log_survival(store: DeliveryStore) -> None:
    """In a Space, log whether unfinished deliveries survive a restart."""
    if _environment.is_space():
        what = describe_survival(store)
        (logger.info if _survives(store) else logger.warning)("%s", what[0].lower() + what[1:-1])


def describe_survival(store: DeliveryStore) -> str:
    """Describe in one sentence whether unfinished deliveries survive a restart."""
    path = store.path
    if not store.is_durable:
        return "Deliveries are stored in memory: a restart loses unfinished deliveries."
    if _environment.is_space():
        if kind := _network_kind(path):
            return (
                f"Deliveries are stored in {path}, on a network file system ({kind}): they survive "
                "a restart of the Space, but such a file system can lose some."
            )
        if not _survives(store):
            no_disk = f", because no disk is attached at {_DISK[:-1]}"
            why = no_disk if path.startswith(_DISK) else ""
            return (
                f"Deliveries are stored in {path}, which is lost when the Space restarts or sleeps"
                f"{why}: {_ADVICE}."
            )
    return f"Deliveries are stored in {path}: unfinished deliveries continue after a restart."


def _survives(store: DeliveryStore) -> bool:
    """Return whether the store of a Space seems to survive its restart."""
    if not store.is_durable:
        return False
    if _network_kind(store.path):
        return True
    return store.path.startswith(_DISK) and not _is_on_root_disk(store.path)


def _is_on_root_disk(path: str) -> bool:
    """Return whether the folder of a path is part of the container itself."""
    try:
        return os.stat(os.path.dirname(path)).st_dev == os.stat("/").st_dev  # noqa: PTH116, PTH120 - importing pathlib is slow
    except OSError:
        return False


def _network_kind(path: str) -> str:
    from hubhooks._store.file_systems import find_network  # noqa: PLC0415 - only for a store on disk

    return find_network(path)
