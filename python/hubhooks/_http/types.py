"""The types of the ASGI protocol, for type checkers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping
    from typing import Any, TypeAlias

    Message: TypeAlias = MutableMapping[str, Any]
    Scope: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    Admin: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[bool]]
    # As in ASGI: names in lower case.
    Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
