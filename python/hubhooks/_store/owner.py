"""The app that a store belongs to."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hubhooks._logging import get_logger
from hubhooks._store import schema
from hubhooks.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from hubhooks._app_code import AppIdentity
    from hubhooks._store.connection import Database
    from hubhooks._store.leader import LeaderLock

__all__ = ["StoreOwner"]

logger = get_logger()


class StoreOwner:
    """Checks that a store belongs to this app: its handlers must not get another app's deliveries.

    Args:
        database: the store.
        app: this app; None to read the store only.
        lock: the leader lock of the store.
    """

    def __init__(
        self, database: Database, app: AppIdentity | None, lock: LeaderLock | None
    ) -> None:
        self._db = database
        self._app = app
        self._lock = lock

    def claim(self) -> None:
        """Record that the store belongs to this app.

        Raises:
            ConfigError: it belongs to another app.
        """
        if self._app is None or self._is_owner(self._app):
            return
        with self._db.transaction():
            if not self._is_owner(self._app):
                known = self._recorded_app()
                name = self._app.name_for(self._db.path)
                if known is not None:
                    self._check_adoption(self._app, known, name)
                self._db.execute(schema.SET_APP, (name,))

    def check_replaced_file(self) -> None:
        """Check a file that replaced the store's file, and record this app if it has none.

        Raises:
            StoreError: it belongs to another app.
        """
        if self._app is None or self._is_owner(self._app):
            return
        known = self._recorded_app()
        if known is not None:
            msg = (
                f"the delivery store `{self._db.path}` was replaced by the store of another app, "
                f"`{known}`: restore the right file"
            )
            raise StoreError(msg)
        name = self._app.name_for(self._db.path)
        self._db.defer(partial(self._db.execute, schema.SET_APP, (name,)))

    def _recorded_app(self) -> str | None:
        (known,) = self._db.execute(schema.SELECT_APP).fetchone()
        return None if known is None else str(known)

    def _is_owner(self, app: AppIdentity) -> bool:
        return self._recorded_app() == app.name_for(self._db.path)

    def _check_adoption(self, app: AppIdentity, known: str, name: str) -> None:
        """Raise `ConfigError` if the app must not adopt the store of another app."""
        path = self._db.path
        is_in_use = self._lock is not None and not self._lock.is_held and self._lock.is_taken()
        if not is_in_use and app.is_moved(path, known):
            logger.warning(
                "the app of the delivery store `%s` moved from `%s` to `%s`", path, known, name
            )
        elif is_in_use or not app.may_adopt:
            first = f"stop `{known}`, then " if is_in_use else ""
            msg = (
                f"the delivery store `{path}` belongs to the app `{known}`, and this is "
                f"`{name}`: their handlers would get each other's deliveries. Give this app its "
                'own file, `Webhooks(deliveries="other.db")` or HUBHOOKS_DELIVERIES. If it is the '
                f"same app with a new name, {first}start it once with HUBHOOKS_ADOPT_STORE=1, or "
                "name it with HUBHOOKS_APP_NAME"
            )
            raise ConfigError(msg)
