"""Methods of the compiled classes that call Python code of others, such as a mapping's `items`.

At exit the interpreter ends a daemon thread where it next runs Python code. While compiled code
waits for that Python code, the thread cannot end, and the process aborts. So these methods are
written in Python, and pass plain objects to the compiled code.
"""

# The class methods here are outside a class: they become methods of `HubEvent`.
# mypy: disable-error-code="misc"

from __future__ import annotations

import itertools
import operator
import warnings
from typing import TYPE_CHECKING, Any, Literal

from hubhooks import _environment
from hubhooks._logging import get_logger
from hubhooks.errors import ConfigError, PayloadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    # The type checkers see these as methods in `_core.pyi`.
    from hubhooks._core import Filter, HubEvent, UpdatedFile, UpdatedFiles, Verifier

__all__ = [
    "check",
    "from_dict",
    "from_env",
    "get_file",
    "index_of_file",
    "make_filter",
    "verify_request",
    "warn_of_quotes",
]  # fmt: skip

_log = get_logger()

_LONGEST_QUOTE = 200
_PLAIN = frozenset({tuple, list})
_QUOTED = (
    "a secret begins and ends with the same quotation mark, and both count as part of it. If they "
    "come from an env file, remove them there"
)
# Python records here that the warning was shown.
_shown: dict[Any, Any] = {}


@classmethod
def from_dict(cls: type[HubEvent], payload: Mapping[str, Any], /) -> HubEvent:
    """Read a delivery from a body that is parsed already.

    Raises:
        PayloadError: the mapping is no Hub event, or holds what JSON cannot.
    """
    import json  # noqa: PLC0415 - `import hubhooks` can do without

    try:
        # Python's own writer guards against cycles and depth, and refuses NaN when told to.
        body = json.dumps(dict(payload), allow_nan=False, separators=(",", ":"))
    except Exception as error:
        msg = f"the mapping cannot be written as JSON: {_text_of(error)}"
        raise PayloadError(msg) from error
    return cls.from_json(body)


@classmethod
def from_env(cls: type[HubEvent], environ: Mapping[str, str] | None = None, /) -> HubEvent:  # noqa: D417 - no caller passes `cls`
    """Read the delivery that started a Hugging Face Job, from the variable `WEBHOOK_PAYLOAD`.

    Args:
        environ: the variables; those of the process by default.

    Raises:
        ConfigError: there is no such variable, as in a Job started by hand.
        PayloadError: its value is no Hub event.

    Source: https://huggingface.co/docs/hub/jobs-webhooks
    """
    payload = (_environment.read_all() if environ is None else environ).get(_environment.PAYLOAD)
    if not payload:
        msg = (
            "no `WEBHOOK_PAYLOAD` in the environment: the Hub sets it only in a Job that a webhook "
            "started. To test the Job, set it to the output of `hubhooks samples NAME`"
        )
        raise ConfigError(msg)
    return cls.from_json(payload)


def make_filter(  # noqa: PLR0913 - the criteria of a filter
    self: Filter,
    *scopes: Any,  # noqa: ANN401 - `_core.pyi` has the types
    action: object = None,
    repo_type: object = None,
    repo: object = None,
    owner: object = None,
    ref: object = None,
    path: object = None,
    pull_request: object = None,
    status: object = None,
    mention: object = None,
    author: object = None,
    private: object = None,
) -> None:
    """Read the criteria, which may be iterables.

    Raises:
        ConfigError: a criterion is no pattern, or no event can satisfy all of them together.
    """
    self._make(
        *scopes,
        action=_plain_list(action),
        repo_type=_plain_list(repo_type),
        repo=_plain_list(repo),
        owner=_plain_list(owner),
        ref=_plain_list(ref),
        path=_plain_list(path),
        pull_request=_plain_list(pull_request),
        status=_plain_list(status),
        mention=_plain_list(mention),
        author=_plain_list(author),
        private=_plain_list(private),
    )


def warn_of_quotes(self: Verifier, *secrets: str) -> None:  # noqa: ARG001 - it is a method
    """Warn of a secret in quotation marks.

    The warning shows no line of the user's code, because the line may contain the secret. A filter
    that turns warnings into errors does not stop the app: the marks may belong to the secret.
    """
    if any(_is_quoted(secret.strip()) for secret in secrets):
        try:
            warnings.warn_explicit(_QUOTED, UserWarning, "hubhooks", 1, "hubhooks", _shown)
        except UserWarning:
            _log.warning("%s", _QUOTED)


def get_file(self: UpdatedFiles, index: Any, /) -> UpdatedFile | tuple[UpdatedFile, ...]:  # noqa: ANN401 - as above
    """Return one file, or the files of a slice."""
    return self._get_item(_plain_index(index))


def index_of_file(
    self: UpdatedFiles,
    value: object,
    start: Any = None,  # noqa: ANN401 - as above
    stop: Any = None,  # noqa: ANN401 - as above
    /,
) -> int:
    """Return the index of the first file equal to this one.

    Raises:
        ValueError: there is none.
    """
    return self._index(value, _plain_index(start), _plain_index(stop))


def verify_request(  # noqa: D417 - no caller passes `self`
    self: Verifier,
    headers: Any,  # noqa: ANN401 - `_core.pyi` has the types
    query: str | bytes | None = None,
) -> None:
    """Find the secret in a request and check it.

    If the request has the header, `?secret=` is ignored. Two different values are rejected.

    Args:
        headers: a mapping, or pairs of name and value as ASGI gives them; str or bytes.
        query: the query of the URL, percent-encoded as it came.

    Raises:
        SecretMissingError: the request carries no secret.
        SecretMismatchError: the secret is wrong, or there are two different ones.
    """
    self._verify_pairs(_pairs_of(headers), query)


def check(  # noqa: D417 - no caller passes `self`
    self: Verifier,
    headers: Any,  # noqa: ANN401 - `_core.pyi` has the types
    query: str | bytes | None = None,
) -> Literal["missing", "mismatch"] | None:
    """Check the secret of a request without raising, which would cost more.

    Args:
        headers: as for `verify_request`.
        query: as for `verify_request`.

    Returns:
        None if the secret is right, else "missing" or "mismatch".
    """
    return self._check_pairs(_pairs_of(headers), query)


def _pairs_of(headers: Any) -> Any:  # noqa: ANN401 - the compiled code checks the types
    """Convert headers to a list of pairs, each a tuple or a list."""
    if isinstance(headers, list) and _PLAIN.issuperset(map(type, headers)):
        return headers
    if not isinstance(headers, list) and callable(items := getattr(headers, "items", None)):
        headers = items()
    try:
        pairs = iter(headers)
    except TypeError:
        return headers
    return [pair if isinstance(pair, tuple | list) else _pair_of(pair) for pair in pairs]


def _plain_list(value: Any) -> Any:  # noqa: ANN401 - the compiled code checks the types
    """Convert an iterable to a list or a tuple."""
    if value is None or isinstance(value, str | bool) or type(value) in _PLAIN:
        return value
    try:
        items = iter(value)
    except TypeError:
        return value
    return list(items)


def _plain_index(index: Any) -> Any:  # noqa: ANN401 - as above
    """Convert an index, or the parts of a slice, to integers."""
    if index is None or type(index) is int:
        return index
    if isinstance(index, slice):
        return slice(*map(_plain_index, (index.start, index.stop, index.step)))
    return operator.index(index)


def _is_quoted(secret: str) -> bool:
    return len(secret) > 1 and secret[0] == secret[-1] and secret[0] in "\"'"


def _pair_of(pair: Any) -> Any:  # noqa: ANN401 - the compiled code checks the types
    # A text of two characters is no pair. A third item shows that there are too many.
    if isinstance(pair, str | bytes):
        return pair
    try:
        items = iter(pair)
    except TypeError:
        return pair
    return tuple(itertools.islice(items, 3))


def _text_of(error: Exception) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - it may be of a class of the user's
        return type(error).__name__
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."
