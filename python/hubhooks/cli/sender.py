"""Send deliveries to a webhook URL as the Hub does."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = [
    "OutgoingDelivery",
    "Response",
    "SecretPlace",
    "Sender",
    "Target",
    "make_target",
    "printable_ascii",
]

_LAST_PORT = 65535
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_has_scheme = re.compile("[A-Za-z][A-Za-z0-9+.-]*://").match


class SecretPlace(str, Enum):
    """The part of the request that carries the secret."""

    HEADER = "header"
    QUERY = "query"


@dataclass(frozen=True)
class Target:
    """The URL, the headers of every request, and the secret texts in both."""

    url: httpx.URL = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    hidden: Sequence[str] = field(repr=False)
    """Texts to redact from responses: the secret and its percent-encoded form."""

    @property
    def shown(self) -> str:
        """The address without user, password and query."""
        return f"{self.url.scheme}://{self.url.netloc.decode()}{self.url.path}"

    @property
    def is_local(self) -> bool:
        """Whether it is a loopback address of this machine, with no secret in the URL."""
        return self.url.host in _LOOPBACK and not self.hidden


@dataclass(frozen=True)
class OutgoingDelivery:
    """One request: its position, the name of its sample or file, its id and its body."""

    number: int
    sample: str
    id: str
    body: bytes


def make_target(text: str, secret: str | None, place: SecretPlace) -> Target:
    """Parse the URL, and put the secret into a header or the query."""
    url = _url(text)
    hidden = url.params.get_list("secret")
    headers = {"Content-Type": "application/json"}
    if secret is not None:
        # Receivers strip white space around the secret: people paste it by accident.
        secret = printable_ascii(secret.strip(), "the secret")
        hidden.append(secret)
        if place is SecretPlace.HEADER:
            headers["X-Webhook-Secret"] = secret
        else:
            pair = f"secret={quote(secret, safe='')}".encode()
            url = url.copy_with(query=b"&".join(filter(None, (url.query, pair))))
    forms = {form for value in hidden if value for form in (value, quote(value, safe=""))}
    # Longest first: one form may contain another.
    return Target(url, headers, sorted(forms, key=len, reverse=True))


def _url(text: str) -> httpx.URL:
    # The messages do not repeat the URL: it may contain the secret.
    text = text.strip()
    if not _has_scheme(text) and not text.lower().startswith(("http:", "https:")):
        text = f"http://{text}"
    try:
        url = httpx.URL(text)
        host = url.host
    # httpx raises UnicodeError for a host that IDNA cannot encode, or cannot decode for `host`.
    except (httpx.InvalidURL, UnicodeError):
        msg = "the URL cannot be read; check its host and port"
        raise ConfigError(msg) from None
    if url.scheme not in {"http", "https"} or not host:
        msg = "the URL is incomplete: write http:// or https://, host, port and path"
        raise ConfigError(msg)
    if url.port is not None and url.port > _LAST_PORT:
        msg = f"the port of the URL is {url.port}; the highest port is {_LAST_PORT}"
        raise ConfigError(msg)
    return url


def printable_ascii(text: str, what: str) -> str:
    """Return `text` if a header can carry it; else raise an error that names it `what`."""
    if not text or not text.isascii() or not text.isprintable():
        msg = f"{what} must be printable ASCII, and not empty"
        raise ConfigError(msg)
    return text


@dataclass(frozen=True)
class Response:
    """The response to one delivery, or the reason why there is none."""

    delivery: OutgoingDelivery
    milliseconds: float
    status: int | None = None
    body: Any = None
    """The parsed JSON body, or the text if it is not JSON."""
    error: str = ""
    """The reason why there is no response, or the target of a redirect."""
    is_unreachable: bool = False

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return self.status is not None and httpx.codes.is_success(self.status)


@dataclass(frozen=True)
class Sender:
    """Sends deliveries, `concurrency` of them at a time."""

    target: Target
    concurrency: int
    timeout: float

    async def send(
        self, deliveries: Iterator[OutgoingDelivery], count: int, report: Callable[[Response], None]
    ) -> None:
        """Send all deliveries, report each response, and stop if the app is unreachable."""
        is_reachable = True

        async def send_some() -> None:
            nonlocal is_reachable
            while is_reachable and (delivery := next(deliveries, None)):
                response = await self._send_one(client, delivery)
                report(response)
                if response.is_unreachable:
                    is_reachable = False

        # `trust_env=False`: requests to this machine must not go through a proxy.
        # `follow_redirects=False`: the Hub does not follow redirects.
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(
            trust_env=False, follow_redirects=False, timeout=self.timeout, limits=limits
        ) as client:
            await asyncio.gather(*(send_some() for _ in range(min(self.concurrency, count))))

    async def _send_one(self, client: httpx.AsyncClient, delivery: OutgoingDelivery) -> Response:
        headers = {**self.target.headers, "Webhook-Id": delivery.id}
        hidden = self.target.hidden
        start = time.perf_counter()
        try:
            response = await client.post(self.target.url, content=delivery.body, headers=headers)
        except httpx.RequestError as error:
            return Response(
                delivery,
                _milliseconds_since(start),
                error=_redacted(_failure(error, self.timeout), hidden),
                is_unreachable=isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)),
            )
        return Response(
            delivery,
            _milliseconds_since(start),
            status=response.status_code,
            body=_redacted(_parsed_body(response), hidden),
            error=_redacted(_redirect_error(response), hidden),
        )


def _milliseconds_since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 1)


def _failure(error: httpx.RequestError, timeout: float) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no response within {timeout:g} seconds"
    return str(error) or type(error).__name__


def _parsed_body(response: httpx.Response) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return response.json()
    except (ValueError, RecursionError):
        return response.text


def _redirect_error(response: httpx.Response) -> str:
    if not response.has_redirect_location:
        return ""
    return f"redirects to {response.headers['Location']}: give the Hub that URL"


def _redacted(value: Any, hidden: Sequence[str]) -> Any:  # noqa: ANN401 - any JSON value
    """Remove the secret from a response: some servers send the request back."""
    if isinstance(value, str):
        for secret in hidden:
            value = value.replace(secret, "[secret]")
        return value
    if isinstance(value, list):
        return [_redacted(item, hidden) for item in value]
    if isinstance(value, dict):
        return {_redacted(key, hidden): _redacted(item, hidden) for key, item in value.items()}
    return value
