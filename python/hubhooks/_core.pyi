from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NoReturn, SupportsIndex, final, overload

from typing_extensions import Self, disjoint_base

__version__: str

# ---- the event and its classes -------------------------------------------------------------

@disjoint_base
class HubEvent:
    """..."""

    @classmethod
    def from_json(cls, body: bytes | str, /) -> Self: ...
    @classmethod
    def from_dict(cls, payload: Mapping[str, Any], /) -> Self: ...
    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, /) -> Self: ...
    def to_dict(self) -> dict[str, Any]: ...
    def to_json(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def scope(self) -> str: ...
    @property
    def effective(self) -> tuple[str, str]: ...   # (scope, action) after narrowing
    @property
    def is_known(self) -> bool: ...
    @property
    def repo(self) -> Repo | None: ...
    @property
    def discussion(self) -> Discussion | None: ...
    @property
    def comment(self) -> Comment | None: ...
    @property
    def webhook(self) -> Webhook | None: ...
    @property
    def moved_to(self) -> MovedTo | None: ...
    @property
    def updated_refs(self) -> tuple[UpdatedRef, ...]: ...       # () when absent
    @property
    def updated_files(self) -> UpdatedFiles: ...                # empty when absent
    @property
    def updated_files_truncated(self) -> bool: ...
    @property
    def updated_config(self) -> dict[str, Any] | None: ...      # a new dict at each read
    @property
    def extra(self) -> dict[str, Any]: ...                      # undocumented top-level keys
    @property
    def raw(self) -> bytes: ...

@disjoint_base
class RepoEvent(HubEvent):
    @property
    def repo(self) -> Repo: ...

@final
class ContentEvent(HubEvent):
    @property
    def repo(self) -> Repo: ...

@final
class ConfigEvent(HubEvent):
    @property
    def repo(self) -> Repo: ...
    @property
    def updated_config(self) -> dict[str, Any]: ...

@disjoint_base
class DiscussionEvent(HubEvent):
    @property
    def repo(self) -> Repo: ...
    @property
    def discussion(self) -> Discussion: ...

@final
class CommentEvent(DiscussionEvent):
    @property
    def comment(self) -> Comment: ...
    @property
    def is_opening_post(self) -> bool: ...

# ---- the parts: each also has to_dict() -> dict[str, Any], ==, hash, repr, pickle, copy -----

class Repo:
    type: str
    name: str
    id: str | None
    private: bool | None
    url: Url | None
    owner: Owner | None
    head_sha: str | None
    subdomain: str | None
    tags: tuple[str, ...]
    gitaly_uid: str | None
    namespace: str | None      # "me" of "me/x"; None for "gpt2"

class Url:
    web: str
    api: str | None

class Owner:
    id: str

class Discussion:
    id: str | None
    title: str
    url: Url | None
    status: str
    author: Owner | None
    num: int
    is_pull_request: bool
    changes: Changes | None
    pinned: bool | None

class Changes:
    base: str | None
    merge_commit_id: str | None

class Comment:
    id: str | None
    author: Owner | None
    content: str               # "" when hidden
    hidden: bool
    url: Url | None
    def mentions(self, name: str, /) -> bool: ...

class UpdatedRef:
    ref: str
    old_sha: str | None
    new_sha: str | None
    branch: str | None         # "main" of refs/heads/main
    tag: str | None
    pull_request: int | None
    is_created: bool
    is_deleted: bool

class UpdatedFile:
    path: str
    action: str
    xet_hash: str | None
    size: int | None           # bytes

class UpdatedFiles(Sequence[UpdatedFile]): ...

class MovedTo:
    name: str
    owner: Owner | None

class Webhook:
    id: str
    version: int | None

# ---- matching --------------------------------------------------------------------------------

class Filter:
    """What a handler listens to. Raises ConfigError for what can never match."""

    def __new__(
        cls,
        *scopes: str | type[HubEvent],
        action: str | Iterable[str] | None = None,
        repo_type: str | Iterable[str] | None = None,
        repo: str | Iterable[str] | None = None,
        owner: str | Iterable[str] | None = None,
        ref: str | Iterable[str] | None = None,
        path: str | Iterable[str] | None = None,
        pull_request: bool | None = None,
        status: str | Iterable[str] | None = None,
        mention: str | Iterable[str] | None = None,
        author: str | Iterable[str] | None = None,
        private: bool | None = None,
    ) -> Self: ...
    def matches(self, event: HubEvent, /) -> bool: ...
    def explain(self, event: HubEvent, /) -> str: ...   # one sentence fragment, see tests/fixtures/filters.json

def matching(event: HubEvent, filters: Sequence[Filter], /) -> list[int]:
    """Give the indexes of the filters that match, in order."""

# ---- the secret ------------------------------------------------------------------------------

class Verifier:
    def __new__(cls, *secrets: str) -> Self: ...            # ConfigError: none, empty, non-ASCII
    def verify(self, value: str | bytes | None, /) -> None: ...   # SecretMissingError, SecretMismatchError
    def verify_request(
        self,
        headers: Mapping[str, str] | Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]] | Iterable[tuple[str, str]],
        query: str | bytes | None = None,
    ) -> None: ...

# ---- facts about scopes ----------------------------------------------------------------------

SCOPES: dict[str, tuple[str, ...]]   # documented scope -> its actions
def narrow(scope: str, action: str, /) -> tuple[str, str]: ...
def nearest_scope(scope: str, /) -> str | None: ...   # the documented scope a misspelt one may mean
