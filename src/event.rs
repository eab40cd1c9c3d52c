//! Events and their parts, borrowed from the body of a delivery.
//!
//! The whole body is checked when it is parsed: UTF-8, syntax, depth, numbers and the type of each
//! documented field. Only `event` is required. A part (a repo, a discussion, ...) needs its
//! required fields with the right types; else it is None. An optional field of another type is
//! None. Both stay in the text of the body.
//!
//! Fields and when the Hub sends them: <https://huggingface.co/docs/hub/webhooks>.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use memchr::memchr_iter;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess};
use serde_json::value::RawValue;
use serde_path_to_error::Track;

use crate::error::{Error, Problem};
use crate::legacy;
use crate::read::{
    Checked, Id, Present, Read, Required, Strict, Text, check_map, field, mistake, read_object,
    split_mistake,
};
use crate::scope;
use crate::text::{self, Strings, range_in};

/// The documented keys of a body, also those of older bodies.
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
    /// The discussion or pull request, if the scope begins with `discussion`.
    pub discussion: Option<Discussion<'a>>,
    /// The comment, or the first post of a new discussion.
    pub comment: Option<Comment<'a>>,
    /// The webhook that sent the delivery.
    pub webhook: Option<Webhook<'a>>,
    /// The new name and owner of a moved repository.
    pub moved_to: Option<MovedTo<'a>>,
    /// The refs that a push created, moved or deleted.
    pub updated_refs: Vec<UpdatedRef<'a>>,
    /// The changed files of a bucket, parsed lazily. Boxed, because few events have any.
    pub updated_files: Option<Box<UpdatedFiles<'a>>>,
    /// True if the Hub left files out of the list, which it does after 10,000.
    pub updated_files_truncated: bool,
}

/// The class of an event. The effective scope and the valid parts decide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// An event about a repository itself.
    Repo,
    /// A change of the content of a repository.
    Content,
    /// A change of the settings of a repository.
    Config,
    /// A discussion or pull request.
    Discussion,
    /// A comment on one, or its first post.
    Comment,
    /// Any other event.
    Other,
}

impl Class {
    /// The class of the events of a documented scope. An event with invalid parts has a broader
    /// one.
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

    /// True if this class is `other` or extends it.
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
    /// Parse an event from the text that [`text::decode`] returns. `strings` keeps strings with
    /// escapes.
    ///
    /// Boxed, because an event is large and is moved often.
    pub fn read(text: &'a str, strings: &'a Strings) -> Result<Box<Self>, Error> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let no_object = || mistake("", format_args!("expected {}", Self::EXPECTED));
        let event = Box::<Self>::read(&mut reader, strings)
            .and_then(|event| event.ok_or_else(no_object))
            .and_then(|event| reader.end().map(|()| event));
        let mut event = match event {
            Ok(event) => event,
            Err(error) => {
                // Report an error of the JSON syntax first, in any order of the keys.
                check(text, strings)?;
                return Err(problem(String::new(), &error));
            }
        };
        if let Some(files) = &mut event.updated_files {
            files.text = text;
        }
        event.text = text;
        Ok(event)
    }

    /// The body as text, with U+FFFD in place of lone surrogates.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The scope and action after the narrowing rule (see [`scope::narrow`]).
    pub fn effective(&self) -> (&'a str, &'a str) {
        scope::narrow(self.scope, self.action)
    }

    /// True if the effective scope differs from the scope.
    pub fn is_narrowed(&self) -> bool {
        // Compare lengths: an effective scope that differs is shorter, and a scope can be very
        // long.
        self.effective().0.len() != self.scope.len()
    }

    /// True if the Hub documents this scope with this action.
    pub fn is_known(&self) -> bool {
        scope::is_known(self.scope, self.action)
    }

    /// The class of the event.
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

    /// True if the comment is the first post of a new discussion.
    pub fn is_opening_post(&self) -> bool {
        self.comment.is_some() && self.effective() == ("discussion", "create")
    }
}

impl<'de> Read<'de> for Event<'de> {
    const EXPECTED: &'static str = "an object: one Hub event";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, {
            "event" => event,
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
        let Some(Strict(event)) = event else {
            let version_1: [Option<Checked>; 3] = [add, remove, update];
            let is_version_1 = version_1.iter().any(Option::is_some);
            return Err(mistake(
                "",
                if is_version_1 {
                    legacy::VERSION_1
                } else {
                    NO_EVENT
                },
            ));
        };
        let (action, scope) = match event {
            What::Object { action, scope } => (action, scope),
            What::Word(word) => {
                let Some(scope) = scope else {
                    return Err(mistake("", legacy::SCOPE_MISSING));
                };
                (legacy::action(word), scope)
            }
        };
        Ok(Some(Self {
            text: "",
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

/// A string in `event`: the action, or else the scope.
struct InEvent<'a, const IS_ACTION: bool>(&'a str);

impl<const IS_ACTION: bool> Required for InEvent<'_, IS_ACTION> {
    const PATH: &'static str = if IS_ACTION {
        "event.action"
    } else {
        "event.scope"
    };
}

impl<'de, const IS_ACTION: bool> Read<'de> for InEvent<'de, IS_ACTION> {
    const EXPECTED: &'static str = <&str>::EXPECTED;

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(Self(text.keep()))
    }
}

impl Required for What<'_> {
    const PATH: &'static str = "event";
}

/// The key `event`: an object, or in version 2 a string with the scope in another key.
enum What<'a> {
    Object { action: &'a str, scope: &'a str },
    Word(&'a str),
}

impl<'de> Read<'de> for What<'de> {
    const EXPECTED: &'static str = "an object with `action` and `scope`";

    fn from_text(word: Text<'de, '_>) -> Option<Self> {
        Some(Self::Word(word.keep()))
    }

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "action" => action, "scope" => scope });
        match (action, scope) {
            (Some(Strict(InEvent::<true>(action))), Some(Strict(InEvent::<false>(scope)))) => {
                Ok(Some(Self::Object { action, scope }))
            }
            (None, _) => Err(mistake(What::PATH, "expected a key `action`")),
            (_, None) => Err(mistake(What::PATH, "expected a key `scope`")),
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
    /// True if the repository is private.
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
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, {
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
            owner: legacy::owner(owner, author, author_id),
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
    /// The URL of the API.
    pub api: Option<&'a str>,
}

impl<'de> Read<'de> for Url<'de> {
    const EXPECTED: &'static str = "an object: addresses";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "web" => web, "api" => api });
        Ok(web.map(|web| Self { web, api }))
    }
}

/// A user or an organisation. The Hub sends the id, and never a login.
#[derive(Debug)]
pub struct Owner<'a> {
    /// The id.
    pub id: &'a str,
}

impl<'de> Read<'de> for Owner<'de> {
    const EXPECTED: &'static str = "an object with `id`";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "id" => id });
        Ok(id.map(Id::text).map(|id| Self { id }))
    }
}

/// A discussion or a pull request.
#[derive(Debug)]
pub struct Discussion<'a> {
    /// The id.
    pub id: Option<&'a str>,
    /// The title.
    pub title: &'a str,
    /// The URLs.
    pub url: Option<Url<'a>>,
    /// The status: `open`, `closed`, `merged`, `draft`, or one that the Hub adds later.
    pub status: &'a str,
    /// The user who opened it.
    pub author: Option<Owner<'a>>,
    /// The number in the repository.
    pub num: u64,
    /// True if it is a pull request.
    pub is_pull_request: bool,
    /// The target branch and merge commit of a pull request.
    pub changes: Option<Changes<'a>>,
    /// True if it is pinned.
    pub pinned: Option<bool>,
}

impl<'de> Read<'de> for Discussion<'de> {
    const EXPECTED: &'static str = "an object: a discussion";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, {
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
    /// The merge commit.
    pub merge_commit_id: Option<&'a str>,
}

impl<'de> Read<'de> for Changes<'de> {
    const EXPECTED: &'static str = "an object: changes";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "base" => base, "mergeCommitId" => merge_commit_id });
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
    /// True if it is hidden.
    pub hidden: bool,
    /// The URLs.
    pub url: Option<Url<'a>>,
}

/// The number of bytes of a comment that are searched for mentions. Each handler searches it again,
/// so a longer text would block the server for seconds.
const LONGEST_SEARCHED: usize = 1 << 20;

impl Comment<'_> {
    /// Return true if the text mentions `@name`, in any case. A part of a longer login or of an
    /// e-mail address does not count. Only the first 1 MiB of the text is searched.
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

/// Return true if a login ends here. A dot belongs to the login only if another character of it
/// follows.
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
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, {
            "id" => id,
            "author" => author,
            "content" => content,
            "hidden" => hidden,
            "url" => url,
        });
        // A hidden comment has no `content`, so a missing text is empty. A text of another type
        // makes the comment invalid: to treat a hidden comment as visible would be worse.
        let content = content.unwrap_or(Present(Some("")));
        let hidden = hidden.unwrap_or(Present(Some(false)));
        let (Present(Some(content)), Present(Some(hidden))) = (content, hidden) else {
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
    /// The version of the body.
    pub version: Option<u64>,
}

impl<'de> Read<'de> for Webhook<'de> {
    const EXPECTED: &'static str = "an object: a webhook";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "id" => id, "version" => version });
        Ok(id.map(Id::text).map(|id| Self { id, version }))
    }
}

/// The new name and owner of a moved repository.
#[derive(Debug)]
pub struct MovedTo<'a> {
    /// The new name.
    pub name: &'a str,
    /// The new owner.
    pub owner: Option<Owner<'a>>,
}

impl<'a> MovedTo<'a> {
    fn owned_by(mut self, author: Option<Id<'a>>) -> Self {
        self.owner = legacy::owner(self.owner, None, author);
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
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "name" => name, "owner" => owner });
        Ok(name.map(|name| Self { name, owner }))
    }
}

/// A ref that a push created, moved or deleted.
#[derive(Debug)]
pub struct UpdatedRef<'a> {
    /// The full name: `refs/heads/main`.
    pub r#ref: &'a str,
    /// The old commit; None if the push created the ref.
    pub old_sha: Option<&'a str>,
    /// The new commit; None if the push deleted the ref.
    pub new_sha: Option<&'a str>,
}

impl UpdatedRef<'_> {
    /// The name of the branch; None if the ref is not a branch.
    pub fn branch(&self) -> Option<&str> {
        self.r#ref.strip_prefix("refs/heads/")
    }

    /// The name of the tag; None if the ref is not a tag.
    pub fn tag(&self) -> Option<&str> {
        self.r#ref.strip_prefix("refs/tags/")
    }

    /// The number of the pull request; None if the ref is not one.
    pub fn pull_request(&self) -> Option<u64> {
        let digits = self.r#ref.strip_prefix("refs/pr/")?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    }

    /// True if the push created the ref.
    pub fn is_created(&self) -> bool {
        self.old_sha.is_none() && self.new_sha.is_some()
    }

    /// True if the push deleted the ref.
    pub fn is_deleted(&self) -> bool {
        self.new_sha.is_none() && self.old_sha.is_some()
    }
}

impl<'de> Read<'de> for UpdatedRef<'de> {
    const EXPECTED: &'static str = "an object: a ref";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "ref" => r#ref, "oldSha" => old_sha, "newSha" => new_sha });
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
    /// The hash of the content, if the action is `add`.
    pub xet_hash: Option<Cow<'a, str>>,
    /// The size in bytes, if the action is `add`.
    pub size: Option<u64>,
}

impl<'de> Read<'de> for UpdatedFile<'de> {
    const EXPECTED: &'static str = "an object: a file";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, {
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

/// The changed files of a bucket. There can be 10,000, so they are parsed lazily.
#[derive(Debug)]
pub struct UpdatedFiles<'a> {
    text: &'a str,
    strings: &'a Strings,
    /// The range of each element in the text, found at the first access.
    places: OnceLock<Vec<Range<usize>>>,
}

impl<'a> UpdatedFiles<'a> {
    /// Parse the files, each with its JSON text. Invalid elements are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, UpdatedFile<'a>)> {
        let places = self.places.get_or_init(|| places_of_files(self.text));
        places.iter().filter_map(|place| {
            let json = &self.text[place.clone()];
            let mut reader = serde_json::Deserializer::from_str(json);
            // Only the type can be wrong. The rest was checked with the body.
            let file = field(self.strings).deserialize(&mut reader).ok()?;
            Some((json, file?))
        })
    }
}

impl<'de> Read<'de> for UpdatedFiles<'de> {
    const EXPECTED: &'static str = "an array of files";

    fn from_seq<A: SeqAccess<'de>>(
        mut seq: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        let element = || field::<PassedOver>(strings);
        while seq.next_element_seed(element())?.is_some() {}
        Ok(Some(Self {
            text: "",
            strings,
            places: OnceLock::new(),
        }))
    }
}

/// An element of the list, checked and dropped. Like `Checked`, with its own loop for objects.
struct PassedOver;

impl<'de> Read<'de> for PassedOver {
    const EXPECTED: &'static str = UpdatedFile::EXPECTED;

    fn from_map<A: MapAccess<'de>>(map: A, _: &'de Strings) -> Result<Option<Self>, A::Error> {
        check_map::<1, _>(map).map(|()| None)
    }
}

/// The ranges of the elements of `updatedFiles`, found by a second pass over the body.
fn places_of_files(text: &str) -> Vec<Range<usize>> {
    let strings = Strings::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let body = field::<FilesAlone<'_>>(&strings).deserialize(&mut reader);
    // The list exists, because the body was parsed before.
    let elements = body.ok().flatten().map(|body| body.0).unwrap_or_default();
    let place = |element: &RawValue| range_in(text, element.get());
    elements.into_iter().map(place).collect()
}

/// A body of which only the list of files is parsed.
struct FilesAlone<'a>(Vec<&'a RawValue>);

impl<'de> Read<'de> for FilesAlone<'de> {
    const EXPECTED: &'static str = Event::EXPECTED;

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "updatedFiles" => files });
        Ok(files.map(Self))
    }
}

/// Check a whole text, and find the place of an error. It is slow, so only errors call it.
fn check(text: &str, strings: &Strings) -> Result<(), Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut track = Track::new();
    field::<Checked>(strings)
        .deserialize(serde_path_to_error::Deserializer::new(
            &mut reader,
            &mut track,
        ))
        .map_err(|error| problem(track.path().to_string(), &error))?;
    reader.end().map_err(|error| problem(String::new(), &error))
}

/// Turn an error of serde_json into one with our words and the place.
fn problem(path: String, error: &serde_json::Error) -> Error {
    let message = error.to_string();
    let message = match message.rsplit_once(" at line ") {
        Some((message, _)) => message,
        None => &message,
    };
    let (path, message) = match split_mistake(message) {
        Some((path, message)) => (path.to_owned(), message),
        None => (path, message),
    };
    let what = match message {
        "recursion limit exceeded" => "expected at most 127 levels of nesting, found more",
        "number out of range" => "expected a number that 64 bits can hold, found a larger one",
        "expected ident" => "expected `true`, `false` or `null`, found another word",
        _ if error.is_eof() => "expected more, found the end of the body",
        other => other,
    };
    Error::Payload(Problem {
        what: what.to_owned(),
        path: shortened(&path),
        // An error about the whole body has no place of its own: use the start of the body.
        place: Some((error.line().max(1), error.column())),
    })
}

/// A path for messages: on one line, shortened, and without the question marks at the end, which
/// stand for keys that could not be parsed.
fn shortened(path: &str) -> String {
    const LONGEST: usize = 80;
    let (mut shown, is_cut) = text::line_start(path.trim_end_matches(['?', '.']), LONGEST);
    if is_cut {
        shown += "...";
    }
    shown
}
