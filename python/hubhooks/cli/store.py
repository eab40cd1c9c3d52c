"""Open the delivery store of an app, and find deliveries in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubhooks._store import busy
from hubhooks._store.file_systems import require_file
from hubhooks._store.sqlite import SqliteStore
from hubhooks._terminal import single_line
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from hubhooks.models import Delivery

    T = TypeVar("T")

__all__ = ["find_delivery", "find_id", "open_store", "retry_while_busy"]

_BUSY_SECONDS = 10.0
_BUSY_PAUSE = 0.2


def open_store(file: str, **options: Any) -> SqliteStore:  # noqa: ANN401 - options of the store
    """Return an existing store; the commands never create one."""
    if file == ":memory:":
        msg = "the app stores its deliveries in memory (:memory:): no other process can read them"
        raise ConfigError(msg)
    # Only the app checks for a network file system.
    store = SqliteStore(file, allow_network=True, **options)
    try:
        require_file(store.path)
        exists = Path(store.path).stat().st_size > 0
    except FileNotFoundError:
        exists = False
    except OSError as error:
        msg = f"cannot read the delivery store `{file}`: {error.strerror}"
        raise ConfigError(msg) from error
    if not exists:
        msg = (
            f"there is no delivery store `{store.path}`. The app creates it at its start: run this "
            "command in the folder of the app, give --file, or set HUBHOOKS_DELIVERIES"
        )
        raise ConfigError(msg)
    return store


def find_id(store: SqliteStore, prefix: str) -> str:
    """Return the only id that begins with `prefix`."""
    if not prefix:
        # An empty prefix would match every id. It is mostly an unset variable of a script.
        msg = "an id is empty; see `hubhooks deliveries list`"
        raise ConfigError(msg)
    prefix = prefix.encode("utf-8", "replace").decode()
    found = store.ids(prefix)
    if prefix in found or len(found) == 1:
        return found[0]
    if not found:
        msg = f"no id begins with `{prefix}`; see `hubhooks deliveries list`"
        raise ConfigError(msg)
    msg = f"several ids begin with `{prefix}`: write more of one: {', '.join(found)}"
    raise ConfigError(single_line(msg))


def find_delivery(store: SqliteStore, prefix: str) -> Delivery:
    """Return the only delivery with an id that begins with `prefix`."""
    delivery = store.get(find_id(store, prefix))
    if delivery is None:
        msg = f"the delivery `{prefix}` was deleted meanwhile"
        raise ConfigError(msg)
    return delivery


def retry_while_busy(write: Callable[[], T]) -> T:
    """Retry a write for up to `_BUSY_SECONDS` while another process holds the write lock."""
    return busy.retry_while_busy(write, _BUSY_SECONDS, _BUSY_PAUSE)
