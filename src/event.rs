//! The Hub's nouns, borrowed from the body of a delivery.
//!
//! A body is checked whole when it is read: UTF-8, syntax, depth, numbers and the type of every
//! documented field. Only `event` must be there. A part (a repo, a discussion, ...) is well typed
//! when the fields it cannot do without are; a part that is not reads as None, an optional field of
//! another type reads as None, and both stay reachable in the body.
//!
//! Fields and when the Hub sends them: <https://huggingface.co/docs/hub/webhooks>.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use memchr::memchr_iter;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess};
use serde_json::value::RawValue;
use serde_path_to_error::Track;

use crate::error::{Error, PayloadError};
use crate::legacy;
use crate::read::{Checked, Id, Read, Text, Typed, check_map, field, read_object};
use crate::scope;
use crate::text::{self, StringArena, range_in};

/// The keys of a body that are documented, older shapes included.
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

/// One delivery's body.
#[derive(Debug)]
pub struct Event<'a> {
    text: &'a str,
    /// What happened: `create`, `delete`, `update`, `move`, or a word of the future.
    pub action: &'a str,
    /// To what it happened, dotted: `repo.content`, `discussion.comment`, or a scope of the future.
    pub scope: &'a str,
    /// The repository it happened in.
    pub repo: Option<Repo<'a>>,
    /// The discussion or pull request, with scopes `discussion*`.
    pub discussion: Option<Discussion<'a>>,
    /// The comment, or the opening post of a new discussion.
    pub comment: Option<Comment<'a>>,
    /// The webhook that sent the delivery.
    pub webhook: Option<Webhook<'a>>,
    /// Where a moved repository is now.
    pub moved_to: Option<MovedTo<'a>>,
    /// The refs that a push created, moved or deleted.
    pub updated_refs: Vec<UpdatedRef<'a>>,
    /// The files that changed in a bucket, read when asked for; boxed, as few events have any.
    pub updated_files: Option<Box<UpdatedFiles<'a>>>,
    /// Whether the Hub left files out of the list because there were more than 10,000.
    pub updated_files_truncated: bool,
}

/// The class of an event, decided by its effective scope and the well-typed parts it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// An event on a repository itself.
    Repo,
    /// A change of a repository's files.
    Content,
    /// A change of a repository's settings.
    Config,
    /// A discussion or pull request.
    Discussion,
    /// A comment on one, the opening post included.
    Comment,
    /// Anything else.
    Other,
}

impl Class {
    /// The class that every event of a documented scope has at least, if its parts are as
    /// documented.
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

    /// Whether this class is another one or extends it.
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
    /// Read an event from the text that [`text::decode`] gives; `strings` takes what has escapes.
    /// Boxed, as an event is large and on its way passes many hands.
    pub fn read(text: &'a str, strings: &'a StringArena) -> Result<Box<Self>, Error> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let no_object = || strings.field_error("", format_args!("expected {}", Self::EXPECTED));
        let event = Box::<Self>::read(&mut reader, strings)
            .and_then(|event| event.ok_or_else(no_object))
            .and_then(|event| reader.end().map(|()| event));
        let mut event = match event {
            Ok(event) => event,
            Err(error) => {
                // Invalid JSON comes first: the order of keys must not decide.
                check(text)?;
                return Err(match strings.first_field_error() {
                    Some((path, what)) => payload_error(path, what, &error),
                    None => json_error("", &error),
                });
            }
        };
        if let Some(files) = &mut event.updated_files {
            files.text = text;
        }
        event.text = text;
        Ok(event)
    }

    /// The body as text: what was received, lone surrogates replaced.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The scope and action after the narrowing rule (see [`scope::narrow`]).
    pub fn effective(&self) -> (&'a str, &'a str) {
        scope::narrow(self.scope, self.action)
    }

    /// Whether the effective scope is another one than the event's own.
    pub fn is_narrowed(&self) -> bool {
        // It is shorter then. To compare two scopes as long as a body takes milliseconds.
        self.effective().0.len() != self.scope.len()
    }

    /// Whether the Hub documents this scope with this action.
    pub fn is_known(&self) -> bool {
        scope::is_known(self.scope, self.action)
    }

    /// What kind of event this is.
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

    /// Whether the comment is the first post of a discussion just opened.
    pub fn is_opening_post(&self) -> bool {
        self.comment.is_some() && self.effective() == ("discussion", "create")
    }
}

impl<'de> Read<'de> for Event<'de> {
    const EXPECTED: &'static str = "an object: one Hub event";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, {
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
            let version_1: [Option<Checked>; 3] = [add, remove, update];
            let is_version_1 = version_1.iter().any(Option::is_some);
            return Err(strings.field_error(
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
                    return Err(strings.field_error("", legacy::SCOPE_MISSING));
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

/// The key `event`: an object, or in version 2 a word with the scope beside it.
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
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, {
            "action" => action required at "event.action",
            "scope" => scope required at "event.scope",
        });
        match (action, scope) {
            (Some(action), Some(scope)) => Ok(Some(Self::Object { action, scope })),
            (None, _) => Err(strings.field_error("event", "expected a key `action`")),
            (_, None) => Err(strings.field_error("event", "expected a key `scope`")),
        }
    }
}

/// A repository.
#[derive(Debug)]
pub struct Repo<'a> {
    /// `model`, `dataset`, `space`, `bucket`, or a type of the future.
    pub r#type: &'a str,
    /// `owner/name`, or `name` alone for the oldest ones. On a move, the old name.
    pub name: &'a str,
    /// The id that stays when the name changes.
    pub id: Option<&'a str>,
    /// Whether only members see it.
    pub private: Option<bool>,
    /// Where it is.
    pub url: Option<Url<'a>>,
    /// Whose it is.
    pub owner: Option<Owner<'a>>,
    /// The head of `main`, also when another ref was pushed.
    pub head_sha: Option<&'a str>,
    /// The host name of a Space.
    pub subdomain: Option<&'a str>,
    /// The tags, in older shapes.
    pub tags: Vec<&'a str>,
    /// The storage's name, in older shapes.
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
        strings: &'de StringArena,
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
            owner: Owner::from_ids(owner, author, author_id),
            head_sha,
            subdomain,
            tags: tags.unwrap_or_default(),
            gitaly_uid,
        }))
    }
}

/// Where something is.
#[derive(Debug)]
pub struct Url<'a> {
    /// The page for people.
    pub web: &'a str,
    /// The address for programs.
    pub api: Option<&'a str>,
}

impl<'de> Read<'de> for Url<'de> {
    const EXPECTED: &'static str = "an object: addresses";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "web" => web, "api" => api });
        Ok(web.map(|web| Self { web, api }))
    }
}

/// A user or an organisation, of whom the Hub sends only the id.
#[derive(Debug)]
pub struct Owner<'a> {
    /// The id; never a login.
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
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "id" => id });
        Ok(id.map(Id::text).map(|id| Self { id }))
    }
}

/// A discussion or a pull request.
#[derive(Debug)]
pub struct Discussion<'a> {
    /// Its id.
    pub id: Option<&'a str>,
    /// Its title.
    pub title: &'a str,
    /// Where it is.
    pub url: Option<Url<'a>>,
    /// `open`, `closed`, `merged`, `draft`, or a word of the future.
    pub status: &'a str,
    /// Who opened it.
    pub author: Option<Owner<'a>>,
    /// Its number in the repository.
    pub num: u64,
    /// Whether it is a pull request.
    pub is_pull_request: bool,
    /// What a pull request changes.
    pub changes: Option<Changes<'a>>,
    /// Whether it is pinned.
    pub pinned: Option<bool>,
}

impl<'de> Read<'de> for Discussion<'de> {
    const EXPECTED: &'static str = "an object: a discussion";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de StringArena,
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

/// What a pull request changes.
#[derive(Debug)]
pub struct Changes<'a> {
    /// The ref it is to be merged into, in full.
    pub base: Option<&'a str>,
    /// The commit it was merged as.
    pub merge_commit_id: Option<&'a str>,
}

impl<'de> Read<'de> for Changes<'de> {
    const EXPECTED: &'static str = "an object: changes";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "base" => base, "mergeCommitId" => merge_commit_id });
        Ok(Some(Self {
            base,
            merge_commit_id: merge_commit_id.map(Id::text),
        }))
    }
}

/// A comment, or the opening post of a discussion.
#[derive(Debug)]
pub struct Comment<'a> {
    /// Its id.
    pub id: Option<&'a str>,
    /// Who wrote it.
    pub author: Option<Owner<'a>>,
    /// Its text; empty when it is hidden, as the Hub then sends none.
    pub content: &'a str,
    /// Whether it was hidden.
    pub hidden: bool,
    /// Where it is.
    pub url: Option<Url<'a>>,
}

/// How much of a comment is searched for mentions, in bytes. Each handler searches it again, so a
/// longer one would stop the server for seconds.
const LONGEST_SEARCHED: usize = 1 << 20;

impl Comment<'_> {
    /// Whether the text mentions `@name`: a whole login, in any case, not part of a longer word or
    /// of an address. Of a text longer than 1 MiB only the start is searched.
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

/// Whether a login ends here: a dot counts as part of it only when more of it follows.
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
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, {
            "id" => id,
            "author" => author,
            "content" => content,
            "hidden" => hidden,
            "url" => url,
        });
        // The Hub leaves `content` out of a hidden comment: absent is empty, but another type is no
        // comment, as to take a hidden one for a visible one is worse than to miss it.
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
    /// Its id; not that of the delivery, which comes in the header `Webhook-Id`.
    pub id: &'a str,
    /// The version of the body.
    pub version: Option<u64>,
}

impl<'de> Read<'de> for Webhook<'de> {
    const EXPECTED: &'static str = "an object: a webhook";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "id" => id, "version" => version });
        Ok(id.map(Id::text).map(|id| Self { id, version }))
    }
}

/// Where a moved repository is now.
#[derive(Debug)]
pub struct MovedTo<'a> {
    /// Its new name.
    pub name: &'a str,
    /// Whose it is now.
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

    // Version 2 sends the name alone.
    fn from_text(name: Text<'de, '_>) -> Option<Self> {
        let name = name.keep();
        Some(Self { name, owner: None })
    }

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "name" => name, "owner" => owner });
        Ok(name.map(|name| Self { name, owner }))
    }
}

/// A ref that a push created, moved or deleted.
#[derive(Debug)]
pub struct UpdatedRef<'a> {
    /// The ref in full: `refs/heads/main`.
    pub r#ref: &'a str,
    /// The commit it pointed to; None when it is new.
    pub old_sha: Option<&'a str>,
    /// The commit it points to; None when it is gone.
    pub new_sha: Option<&'a str>,
}

impl UpdatedRef<'_> {
    /// The branch's name, if it is one.
    pub fn branch(&self) -> Option<&str> {
        self.r#ref.strip_prefix("refs/heads/")
    }

    /// The tag's name, if it is one.
    pub fn tag(&self) -> Option<&str> {
        self.r#ref.strip_prefix("refs/tags/")
    }

    /// The pull request's number, if it is one.
    pub fn pull_request(&self) -> Option<u64> {
        let digits = self.r#ref.strip_prefix("refs/pr/")?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    }

    /// Whether the push created it.
    pub fn is_created(&self) -> bool {
        self.old_sha.is_none() && self.new_sha.is_some()
    }

    /// Whether the push deleted it.
    pub fn is_deleted(&self) -> bool {
        self.new_sha.is_none() && self.old_sha.is_some()
    }
}

impl<'de> Read<'de> for UpdatedRef<'de> {
    const EXPECTED: &'static str = "an object: a ref";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "ref" => r#ref, "oldSha" => old_sha, "newSha" => new_sha });
        Ok(r#ref.map(|r#ref| Self {
            r#ref,
            old_sha,
            new_sha,
        }))
    }
}

/// A file that changed in a bucket.
#[derive(Debug)]
pub struct UpdatedFile<'a> {
    /// Its path in the bucket.
    pub path: Cow<'a, str>,
    /// `add` (also when it was overwritten), `delete`, or a word of the future.
    pub action: Cow<'a, str>,
    /// The hash of its contents, with `add`.
    pub xet_hash: Option<Cow<'a, str>>,
    /// Its size in bytes, with `add`.
    pub size: Option<u64>,
}

impl<'de> Read<'de> for UpdatedFile<'de> {
    const EXPECTED: &'static str = "an object: a file";

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de StringArena,
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

/// The list of a bucket's changed files: up to 10,000, so each is read only when asked for.
#[derive(Debug)]
pub struct UpdatedFiles<'a> {
    text: &'a str,
    strings: &'a StringArena,
    /// Where in the text each element of the list is, once somebody asked.
    places: OnceLock<Vec<Range<usize>>>,
}

impl<'a> UpdatedFiles<'a> {
    /// Read the files, each with the JSON text it stands in. Elements that are none are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, UpdatedFile<'a>)> {
        let places = self.places.get_or_init(|| places_of_files(self.text));
        places.iter().filter_map(|place| {
            let json = &self.text[place.clone()];
            let mut reader = serde_json::Deserializer::from_str(json);
            // Nothing but the type can be wrong: the rest was checked with the body.
            let file = field(self.strings).deserialize(&mut reader).ok()?;
            Some((json, file?))
        })
    }
}

impl<'de> Read<'de> for UpdatedFiles<'de> {
    const EXPECTED: &'static str = "an array of files";

    fn from_seq<A: SeqAccess<'de>>(
        mut seq: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        let element = || field::<SkippedFile>(strings);
        while seq.next_element_seed(element())?.is_some() {}
        Ok(Some(Self {
            text: "",
            strings,
            places: OnceLock::new(),
        }))
    }
}

/// An element of the list, checked and dropped: `Checked` with a loop of its own for objects.
struct SkippedFile;

impl<'de> Read<'de> for SkippedFile {
    const EXPECTED: &'static str = UpdatedFile::EXPECTED;

    fn from_map<A: MapAccess<'de>>(map: A, _: &'de StringArena) -> Result<Option<Self>, A::Error> {
        check_map::<1, _>(map).map(|()| None)
    }
}

/// Where the elements of a body's list of files are: a second reading, which skips over them.
fn places_of_files(text: &str) -> Vec<Range<usize>> {
    let strings = StringArena::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let body = field::<FileListOnly<'_>>(&strings).deserialize(&mut reader);
    // It is there, as the body was read before.
    let elements = body.ok().flatten().map(|body| body.0).unwrap_or_default();
    let place = |element: &RawValue| range_in(text, element.get());
    elements.into_iter().map(place).collect()
}

/// A body of which nothing is read but the list of files.
struct FileListOnly<'a>(Vec<&'a RawValue>);

impl<'de> Read<'de> for FileListOnly<'de> {
    const EXPECTED: &'static str = Event::EXPECTED;

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        read_object!(map, strings, { "updatedFiles" => files });
        Ok(files.map(Self))
    }
}

/// Check that a text is valid JSON, and find the path of an error. It is slower than reading an
/// event, so it runs only after a failure.
fn check(text: &str) -> Result<(), Error> {
    let strings = StringArena::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut track = Track::new();
    field::<Checked>(&strings)
        .deserialize(serde_path_to_error::Deserializer::new(
            &mut reader,
            &mut track,
        ))
        .map_err(|error| json_error(&track.path().to_string(), &error))?;
    reader.end().map_err(|error| json_error("", &error))
}

/// An error of `serde_json`, with its own text: a new version may change it.
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
        // An error about the whole body has no position. It is shown at the start.
        place: Some((error.line().max(1), error.column())),
    })
}

/// A path for people: on one line, of some length, and without the question marks that stand for
/// keys which could not be read.
fn shorten(path: &str) -> String {
    const LONGEST: usize = 80;
    let (mut shown, is_cut) = text::line_start(path.trim_end_matches(['?', '.']), LONGEST);
    if is_cut {
        shown += "...";
    }
    shown
}
