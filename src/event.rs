//! Events: the parsed body of a delivery, and its parts.
//!
//! The parser checks the whole body: UTF-8, syntax, depth, numbers and the types of all documented
//! fields. Only `event` is required. A part, such as a repository, is valid if its required fields
//! have their documented types. An invalid part reads as `None`, and so does an optional field with
//! another type. The text of the body has both.
//!
//! Source: <https://huggingface.co/docs/hub/webhooks>.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use memchr::memchr_iter;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess};
use serde_json::value::RawValue;
use serde_path_to_error::Track;

use crate::error::{Error, PayloadError};
use crate::legacy;
use crate::read::{Id, Read, Source, Text, Typed, Validate, check_map, field, read_object};
use crate::scope;
use crate::text::{self, StringArena, range_in};

/// The documented keys of a body, with those of older versions.
pub const DOCUMENTED_KEYS: [&str; 12] = [
    "event",
    "scope",
    "repo",
    "discussion",
    "comment",
    "webhook",
    "movedTo",
    "movedToAuthorId",
    "updatedRefs",
    "updatedConfig",
    "updatedFiles",
    "updatedFilesTruncated",
];

/// The parsed body of a delivery.
#[derive(Debug)]
pub struct Event<'a> {
    text: &'a str,
    /// The action: `create`, `delete`, `update`, `move`, or one that the Hub adds later.
    pub action: &'a str,
    /// The scope: `repo.content`, `discussion.comment`, or one that the Hub adds later.
    pub scope: &'a str,
    /// The repository.
    pub repo: Option<Repo<'a>>,
    /// The discussion or pull request. Only scopes that begin with `discussion` have it.
    pub discussion: Option<Discussion<'a>>,
    /// The comment, or the first post of a new discussion.
    pub comment: Option<Comment<'a>>,
    /// The webhook that sent the delivery.
    pub webhook: Option<Webhook<'a>>,
    /// The new name and owner of a moved repository.
    pub moved_to: Option<MovedTo<'a>>,
    /// The refs that a push created, moved or deleted.
    pub updated_refs: Vec<UpdatedRef<'a>>,
    /// The changed files of a bucket, read lazily. The box keeps other events small.
    pub updated_files: Option<Box<UpdatedFiles<'a>>>,
    /// Whether the Hub left files out of the list, which it does after 10,000.
    pub updated_files_truncated: bool,
}

/// The class of an event. It depends on the effective scope and on the valid parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// An event about a repository itself.
    Repo,
    /// A change of the content of a repository.
    Content,
    /// A change of the settings of a repository.
    Config,
    /// An event about a discussion or pull request.
    Discussion,
    /// An event with a comment: about the comment, or a new discussion with its first post.
    Comment,
    /// Any other event.
    Other,
}

impl Class {
    /// The class of all events of a documented scope with the documented parts. An event of a
    /// subclass has it, too.
    pub fn promised_by(scope: &str) -> Option<Self> {
        Some(match scope {
            "repo" => Self::Repo,
            "repo.content" => Self::Content,
            "repo.config" => Self::Config,
            "discussion" => Self::Discussion,
            "discussion.comment" => Self::Comment,
            _ => return None,
        })
    }

    /// Whether this class is `other` or a subclass of it.
    pub fn is_a(self, other: Self) -> bool {
        self == other || other == Self::Other || (self, other) == (Self::Comment, Self::Discussion)
    }

    /// The name of the Python class.
    pub fn name(self) -> &'static str {
        match self {
            Self::Repo => "RepoEvent",
            Self::Content => "ContentEvent",
            Self::Config => "ConfigEvent",
            Self::Discussion => "DiscussionEvent",
            Self::Comment => "CommentEvent",
            Self::Other => "HubEvent",
        }
    }
}

impl<'a> Event<'a> {
    /// Parse the text of a body, as [`text::decode`] returns it. `strings` keeps the decoded strings
    /// with escapes. [`OwnedEvent`](crate::OwnedEvent) needs neither.
    ///
    /// The box makes it cheap to move an event.
    pub fn read(text: &'a str, strings: &'a StringArena) -> Result<Box<Self>, Error> {
        let source = Source { text, strings };
        let mut reader = source.reader();
        let no_object = || strings.field_error("", format_args!("expected {}", Self::EXPECTED));
        Box::<Self>::read(&mut reader, source)
            .and_then(|event| event.ok_or_else(no_object))
            .and_then(|event| reader.end().map(|()| event))
            .or_else(|error| {
                // Report invalid JSON first, so that the error does not depend on the order of keys.
                check_json(text)?;
                Err(match strings.first_field_error() {
                    Some((path, what)) => payload_error(path, what, &error),
                    None => json_error("", &error),
                })
            })
    }

    /// The body as text, with U+FFFD in place of lone surrogates.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The effective scope and action: see [`scope::narrow`].
    pub fn effective(&self) -> (&'a str, &'a str) {
        scope::narrow(self.scope, self.action)
    }

    /// Whether the effective scope differs from the scope.
    pub fn is_narrowed(&self) -> bool {
        // A narrowed scope is shorter. A scope can be as long as a body, so comparing it is slow.
        self.effective().0.len() != self.scope.len()
    }

    /// Whether the Hub documents this scope with this action.
    pub fn is_known(&self) -> bool {
        scope::is_known(self.scope, self.action)
    }

    /// The class of this event.
    pub fn class(&self) -> Class {
        match Class::promised_by(self.effective().0) {
            Some(class) if self.repo.is_some() => match class {
                Class::Discussion | Class::Comment => match (&self.discussion, &self.comment) {
                    (Some(_), Some(_)) => Class::Comment,
                    (Some(_), None) => Class::Discussion,
                    (None, _) => Class::Other,
                },
                class => class,
            },
            _ => Class::Other,
        }
    }

    /// Whether the comment is the first post of a new discussion.
    pub fn is_opening_post(&self) -> bool {
        self.comment.is_some() && self.effective() == ("discussion", "create")
    }
}

impl<'de> Read<'de> for Event<'de> {
    const EXPECTED: &'static str = "an object: one Hub event";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, {
            "event" => event required at "event",
            "repo" => repo,
            "discussion" => discussion,
            "comment" => comment,
            "webhook" => webhook,
            "updatedRefs" => updated_refs,
            "updatedFiles" => updated_files,
            "updatedFilesTruncated" => updated_files_truncated,
            "movedTo" => moved_to,
            "scope" => scope,
            "movedToAuthorId" => moved_to_author,
            "add" => add,
            "remove" => remove,
            "update" => update,
        });
        let Some(event) = event else {
            let of_version_1: [Option<Validate>; 3] = [add, remove, update];
            let is_version_1 = of_version_1.iter().any(Option::is_some);
            return Err(source.strings.field_error(
                "",
                if is_version_1 {
                    legacy::VERSION_1
                } else {
                    NO_EVENT
                },
            ));
        };
        let (action, scope) = match event {
            EventField::Object { action, scope } => (action, scope),
            EventField::Word(word) => {
                let Some(scope) = scope else {
                    return Err(source.strings.field_error("", legacy::SCOPE_MISSING));
                };
                (legacy::action(word), scope)
            }
        };
        Ok(Some(Self {
            text: source.text,
            action,
            scope,
            repo,
            discussion,
            comment,
            webhook,
            moved_to: moved_to.map(|moved_to: MovedTo<'de>| moved_to.owned_by(moved_to_author)),
            updated_refs: updated_refs.unwrap_or_default(),
            updated_files,
            updated_files_truncated: updated_files_truncated.unwrap_or_default(),
        }))
    }
}

const NO_EVENT: &str = "expected a key `event` with `action` and `scope`";

/// The key `event`: an object, or in version 2 a word, with `scope` as a key of the body.
enum EventField<'a> {
    Object { action: &'a str, scope: &'a str },
    Word(&'a str),
}

impl<'de> Read<'de> for EventField<'de> {
    const EXPECTED: &'static str = "an object with `action` and `scope`";

    fn from_text(word: Text<'de, '_>) -> Option<Self> {
        Some(Self::Word(word.keep()))
    }

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, {
            "action" => action required at "event.action",
            "scope" => scope required at "event.scope",
        });
        match (action, scope) {
            (Some(action), Some(scope)) => Ok(Some(Self::Object { action, scope })),
            (None, _) => Err(source
                .strings
                .field_error("event", "expected a key `action`")),
            (_, None) => Err(source
                .strings
                .field_error("event", "expected a key `scope`")),
        }
    }
}

/// A repository.
#[derive(Debug)]
pub struct Repo<'a> {
    /// The type: `model`, `dataset`, `space`, `bucket`, `kernel`, or one that the Hub adds later.
    pub r#type: &'a str,
    /// The full name, `owner/name`. The oldest repositories have only `name`. On a move, the old
    /// name.
    pub name: &'a str,
    /// The id. It does not change when the repository is renamed.
    pub id: Option<&'a str>,
    /// Whether the repository is private.
    pub private: Option<bool>,
    /// The URLs.
    pub url: Option<Url<'a>>,
    /// The owner.
    pub owner: Option<Owner<'a>>,
    /// The newest commit of `main`, also if another ref was pushed.
    pub head_sha: Option<&'a str>,
    /// The host name of a Space, without the domain.
    pub subdomain: Option<&'a str>,
    /// The tags. Only older bodies have them.
    pub tags: Vec<&'a str>,
    /// The name of the storage. Only older bodies have it.
    pub gitaly_uid: Option<&'a str>,
}

impl Repo<'_> {
    /// The `owner` of `owner/name`.
    pub fn namespace(&self) -> Option<&str> {
        self.name.split_once('/').map(|(namespace, _)| namespace)
    }
}

impl<'de> Read<'de> for Repo<'de> {
    const EXPECTED: &'static str = "an object: a repository";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, {
            "type" => r#type,
            "name" => name,
            "id" => id,
            "private" => private,
            "url" => url,
            "owner" => owner,
            "headSha" => head_sha,
            "subdomain" => subdomain,
            "tags" => tags,
            "gitalyUid" => gitaly_uid,
            "author" => author,
            "authorId" => author_id,
        });
        let (Some(r#type), Some(name)) = (r#type, name) else {
            return Ok(None);
        };
        Ok(Some(Self {
            r#type,
            name,
            id: id.map(Id::text),
            private,
            url,
            owner: Owner::from_ids(owner, author, author_id),
            head_sha,
            subdomain,
            tags: tags.unwrap_or_default(),
            gitaly_uid,
        }))
    }
}

/// The URLs of something on the Hub.
#[derive(Debug)]
pub struct Url<'a> {
    /// The URL of the page.
    pub web: &'a str,
    /// The URL of the API; `None` for comments.
    pub api: Option<&'a str>,
}

impl<'de> Read<'de> for Url<'de> {
    const EXPECTED: &'static str = "an object: addresses";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, { "web" => web, "api" => api });
        Ok(web.map(|web| Self { web, api }))
    }
}

/// A user or an organisation. The Hub sends the id, and never a login.
#[derive(Debug)]
pub struct Owner<'a> {
    /// The id.
    pub id: &'a str,
}

impl<'a> Owner<'a> {
    fn from_ids(
        owner: Option<Self>,
        author: Option<Self>,
        author_id: Option<Id<'a>>,
    ) -> Option<Self> {
        let id = |owner: Self| owner.id;
        legacy::owner_id(owner.map(id), author.map(id), author_id.map(Id::text))
            .map(|id| Self { id })
    }
}

impl<'de> Read<'de> for Owner<'de> {
    const EXPECTED: &'static str = "an object with `id`";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, { "id" => id });
        Ok(id.map(Id::text).map(|id| Self { id }))
    }
}

/// A discussion or a pull request.
#[derive(Debug)]
pub struct Discussion<'a> {
    /// The id. The Hub's API and pages use `num` instead.
    pub id: Option<&'a str>,
    /// The title.
    pub title: &'a str,
    /// The URLs.
    pub url: Option<Url<'a>>,
    /// The status: `open`, `closed`, `merged`, `draft`, or one that the Hub adds later.
    pub status: &'a str,
    /// The user who opened it, and not the user who caused the event.
    pub author: Option<Owner<'a>>,
    /// The number in the repository. Discussions and pull requests share the numbers.
    pub num: u64,
    /// Whether it is a pull request.
    pub is_pull_request: bool,
    /// The target branch and merge commit of a pull request.
    pub changes: Option<Changes<'a>>,
    /// Whether it is pinned.
    pub pinned: Option<bool>,
}

impl<'de> Read<'de> for Discussion<'de> {
    const EXPECTED: &'static str = "an object: a discussion";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, {
            "id" => id,
            "title" => title,
            "url" => url,
            "status" => status,
            "author" => author,
            "num" => num,
            "isPullRequest" => is_pull_request,
            "changes" => changes,
            "pinned" => pinned,
        });
        let (Some(title), Some(status), Some(num), Some(is_pull_request)) =
            (title, status, num, is_pull_request)
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            id: id.map(Id::text),
            title,
            url,
            status,
            author,
            num,
            is_pull_request,
            changes,
            pinned,
        }))
    }
}

/// The target branch and merge commit of a pull request.
#[derive(Debug)]
pub struct Changes<'a> {
    /// The full name of the target ref: `refs/heads/main`.
    pub base: Option<&'a str>,
    /// The merge commit; `None` until it is merged.
    pub merge_commit_id: Option<&'a str>,
}

impl<'de> Read<'de> for Changes<'de> {
    const EXPECTED: &'static str = "an object: changes";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, { "base" => base, "mergeCommitId" => merge_commit_id });
        Ok(Some(Self {
            base,
            merge_commit_id: merge_commit_id.map(Id::text),
        }))
    }
}

/// A comment, or the first post of a discussion.
#[derive(Debug)]
pub struct Comment<'a> {
    /// The id.
    pub id: Option<&'a str>,
    /// The user who wrote it.
    pub author: Option<Owner<'a>>,
    /// The text. It is empty if the comment is hidden, because the Hub sends none.
    pub content: &'a str,
    /// Whether it is hidden.
    pub hidden: bool,
    /// The URLs.
    pub url: Option<Url<'a>>,
}

/// The bytes of a comment that are searched for mentions. Each handler searches them again, so a long
/// comment would block the server for seconds.
const LONGEST_SEARCHED: usize = 1 << 20;

impl Comment<'_> {
    /// Whether the text mentions `@name`, in any case. A part of a longer login or of an e-mail
    /// address does not count. Only the first MiB of a long text is searched.
    pub fn mentions(&self, name: &str) -> bool {
        let name = name.strip_prefix('@').unwrap_or(name);
        let content = self.content;
        let searched = &content.as_bytes()[..content.len().min(LONGEST_SEARCHED)];
        !name.is_empty()
            && memchr_iter(b'@', searched).any(|at| {
                let before = content[..at].chars().next_back();
                let rest = &content[at + 1..];
                rest.get(..name.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(name))
                    && !before.is_some_and(|c| is_login(c) || matches!(c, '.' | '/' | '@' | '`'))
                    && ends_login(&rest[name.len()..])
            })
    }
}

fn is_login(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_')
}

/// Whether a login ends before this text. A dot belongs to a login only if more of it follows.
fn ends_login(rest: &str) -> bool {
    let mut rest = rest.chars();
    match rest.next() {
        Some('.') => !rest.next().is_some_and(is_login),
        Some(c) => !is_login(c),
        None => true,
    }
}

impl<'de> Read<'de> for Comment<'de> {
    const EXPECTED: &'static str = "an object: a comment";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, {
            "id" => id,
            "author" => author,
            "content" => content,
            "hidden" => hidden,
            "url" => url,
        });
        // The Hub leaves `content` out of a hidden comment, so an absent text is empty. With another
        // type, the comment is invalid: a hidden comment must never read as a visible one.
        let content = content.unwrap_or(Typed(Some("")));
        let hidden = hidden.unwrap_or(Typed(Some(false)));
        let (Typed(Some(content)), Typed(Some(hidden))) = (content, hidden) else {
            return Ok(None);
        };
        Ok(Some(Self {
            id: id.map(Id::text),
            author,
            content,
            hidden,
            url,
        }))
    }
}

/// The webhook that sent a delivery.
#[derive(Debug)]
pub struct Webhook<'a> {
    /// The id of the webhook. The id of the delivery is in the header `Webhook-Id`.
    pub id: &'a str,
    /// The version of the body. It is 3 since 2022.
    pub version: Option<u64>,
}

impl<'de> Read<'de> for Webhook<'de> {
    const EXPECTED: &'static str = "an object: a webhook";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, { "id" => id, "version" => version });
        Ok(id.map(Id::text).map(|id| Self { id, version }))
    }
}

/// The new name and owner of a moved repository.
#[derive(Debug)]
pub struct MovedTo<'a> {
    /// The new name, `owner/name`.
    pub name: &'a str,
    /// The new owner.
    pub owner: Option<Owner<'a>>,
}

impl<'a> MovedTo<'a> {
    fn owned_by(mut self, author: Option<Id<'a>>) -> Self {
        self.owner = Owner::from_ids(self.owner, None, author);
        self
    }
}

impl<'de> Read<'de> for MovedTo<'de> {
    const EXPECTED: &'static str = "an object with `name` and `owner`";

    // Version 2 sends only the name.
    fn from_text(name: Text<'de, '_>) -> Option<Self> {
        let name = name.keep();
        Some(Self { name, owner: None })
    }

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, { "name" => name, "owner" => owner });
        Ok(name.map(|name| Self { name, owner }))
    }
}

/// A ref that a push created, moved or deleted.
#[derive(Debug)]
pub struct UpdatedRef<'a> {
    /// The full name: `refs/heads/main`.
    pub r#ref: &'a str,
    /// The old commit; `None` if the push created the ref.
    pub old_sha: Option<&'a str>,
    /// The new commit; `None` if the push deleted the ref.
    pub new_sha: Option<&'a str>,
}

impl UpdatedRef<'_> {
    /// The name of the branch; `None` if the ref is not a branch.
    pub fn branch(&self) -> Option<&str> {
        self.r#ref.strip_prefix("refs/heads/")
    }

    /// The name of the tag; `None` if the ref is not a tag.
    pub fn tag(&self) -> Option<&str> {
        self.r#ref.strip_prefix("refs/tags/")
    }

    /// The number of the pull request; `None` if the ref is not one.
    pub fn pull_request(&self) -> Option<u64> {
        let digits = self.r#ref.strip_prefix("refs/pr/")?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    }

    /// Whether the push created the ref.
    pub fn is_created(&self) -> bool {
        self.old_sha.is_none() && self.new_sha.is_some()
    }

    /// Whether the push deleted the ref.
    pub fn is_deleted(&self) -> bool {
        self.new_sha.is_none() && self.old_sha.is_some()
    }
}

impl<'de> Read<'de> for UpdatedRef<'de> {
    const EXPECTED: &'static str = "an object: a ref";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, { "ref" => r#ref, "oldSha" => old_sha, "newSha" => new_sha });
        Ok(r#ref.map(|r#ref| Self {
            r#ref,
            old_sha,
            new_sha,
        }))
    }
}

/// A changed file of a bucket.
#[derive(Debug)]
pub struct UpdatedFile<'a> {
    /// The path in the bucket.
    pub path: Cow<'a, str>,
    /// The action: `add`, also for an overwritten file, `delete`, or one that the Hub adds later.
    pub action: Cow<'a, str>,
    /// The hash of the content; `None` unless the action is `add`.
    pub xet_hash: Option<Cow<'a, str>>,
    /// The size in bytes; `None` unless the action is `add`.
    pub size: Option<u64>,
}

impl<'de> Read<'de> for UpdatedFile<'de> {
    const EXPECTED: &'static str = "an object: a file";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, {
            "path" => path,
            "action" => action,
            "xetHash" => xet_hash,
            "size" => size,
        });
        let (Some(path), Some(action)) = (path, action) else {
            return Ok(None);
        };
        Ok(Some(Self {
            path,
            action,
            xet_hash,
            size,
        }))
    }
}

/// The changed files of a bucket, read lazily, because there can be 10,000.
#[derive(Debug)]
pub struct UpdatedFiles<'a> {
    source: Source<'a>,
    /// The place of each element of the list in the text, found at the first access.
    places: OnceLock<Vec<Range<usize>>>,
}

impl<'a> UpdatedFiles<'a> {
    /// Read the files, each with its JSON text. Invalid elements are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, UpdatedFile<'a>)> {
        let text = self.source.text;
        let places = self.places.get_or_init(|| places_of_files(text));
        places.iter().filter_map(|place| {
            let element = Source {
                text: &text[place.clone()],
                ..self.source
            };
            // The syntax was checked with the body, so only the type can be invalid.
            let file = field(element).deserialize(&mut element.reader()).ok()?;
            Some((element.text, file?))
        })
    }
}

impl<'de> Read<'de> for UpdatedFiles<'de> {
    const EXPECTED: &'static str = "an array of files";

    fn from_seq<A: SeqAccess<'de>>(
        mut seq: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        while seq
            .next_element_seed(field::<SkippedFile>(source))?
            .is_some()
        {}
        Ok(Some(Self {
            source,
            places: OnceLock::new(),
        }))
    }
}

/// An element of the list, checked and dropped: `Validate` with its own copy of the code.
struct SkippedFile;

impl<'de> Read<'de> for SkippedFile {
    const EXPECTED: &'static str = UpdatedFile::EXPECTED;

    fn from_map<A: MapAccess<'de>>(map: A, _: Source<'de>) -> Result<Option<Self>, A::Error> {
        check_map::<1, _>(map).map(|()| None)
    }
}

/// The places of the elements in the list of files. This reads the body again, and skips each element.
fn places_of_files(text: &str) -> Vec<Range<usize>> {
    let strings = StringArena::default();
    let source = Source {
        text,
        strings: &strings,
    };
    let body = field::<FileListOnly<'_>>(source).deserialize(&mut source.reader());
    // The body was parsed before, so the list exists.
    let elements = body.ok().flatten().map(|body| body.0).unwrap_or_default();
    let place = |element: &RawValue| range_in(text, element.get());
    elements.into_iter().map(place).collect()
}

/// A body of which only the list of files is read.
struct FileListOnly<'a>(Vec<&'a RawValue>);

impl<'de> Read<'de> for FileListOnly<'de> {
    const EXPECTED: &'static str = Event::EXPECTED;

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        source: Source<'de>,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, source, { "updatedFiles" => files });
        Ok(files.map(Self))
    }
}

/// Check that a text is valid JSON, and find the path of an error. This is slower than parsing an
/// event, so it runs only after a failure.
fn check_json(text: &str) -> Result<(), Error> {
    let strings = StringArena::default();
    let source = Source {
        text,
        strings: &strings,
    };
    let mut reader = source.reader();
    let mut track = Track::new();
    field::<Validate>(source)
        .deserialize(serde_path_to_error::Deserializer::new(
            &mut reader,
            &mut track,
        ))
        .map_err(|error| json_error(&track.path().to_string(), &error))?;
    reader.end().map_err(|error| json_error("", &error))
}

/// An error with the text of `serde_json`. A new version of it can change the text.
fn json_error(path: &str, error: &serde_json::Error) -> Error {
    if error.is_eof() {
        return payload_error(path, "expected more, found the end of the body", error);
    }
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    payload_error(path, text.strip_suffix(&place).unwrap_or(&text), error)
}

fn payload_error(path: &str, what: &str, error: &serde_json::Error) -> Error {
    Error::Payload(PayloadError {
        what: what.to_owned(),
        path: shorten(path),
        // An error about the whole body has no position, so it gets that of the start.
        place: Some((error.line().max(1), error.column())),
    })
}

/// A path for messages: on one line, cut if it is long, and without the `?` of unreadable keys.
fn shorten(path: &str) -> String {
    const LONGEST: usize = 80;
    let (mut shown, is_cut) = text::line_start(path.trim_end_matches(['?', '.']), LONGEST);
    if is_cut {
        shown += "...";
    }
    shown
}
