//! Filters: which events match, and why an event does not match.
//!
//! `Filter::judge` compares one criterion with an event. [`Filter::matches`] stops at the first
//! criterion that fails. [`Filter::explain`] asks all of them. The table in `documented.rs` has
//! what the Hub documents about its events. It shows which combinations no event can satisfy.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use crate::error::Error;
use crate::event::{Class, Event};
use crate::text::one_line;
use documented::EVENTS;
use glob::Glob;
use remark::Remark;

mod documented;
mod glob;
mod remark;
mod values;

pub use documented::{ACTIONS, REPO_TYPES, STATUSES};

/// A scope or a class of events in a filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listened {
    /// A scope, or a scope with all scopes below it: `repo.*` is `repo`, `repo.content` and the
    /// others.
    ///
    /// An event of a documented scope must have the documented parts. Otherwise it matches only
    /// `repo.*` and classes.
    Scope(String),
    /// A class and its subclasses: a comment is also a discussion, and every event is
    /// [`Class::Other`].
    Class(Class),
}

impl Listened {
    /// Return true if an event of this scope and class matches. `is_complete` is true if the event
    /// has the class that its scope promises.
    fn covers(&self, scope: &str, class: Class, is_complete: bool) -> bool {
        match self {
            Self::Class(wanted) => class.is_a(*wanted),
            Self::Scope(name) => match name.strip_suffix(".*") {
                Some(base) => scope
                    .strip_prefix(base)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
                None => is_complete && scope == name,
            },
        }
    }

    fn is_documented(&self) -> bool {
        EVENTS
            .iter()
            .any(|event| self.covers(event.scope, event.class, true))
    }

    /// Check the form of the scope: words with dots between them, and at most `.*` at the end.
    fn check(&self) -> Result<(), Error> {
        let Self::Scope(name) = self else {
            return Ok(());
        };
        let words = name.strip_suffix(".*").unwrap_or(name);
        if words
            .split('.')
            .any(|word| word.is_empty() || word.contains(|c: char| c == '*' || c.is_whitespace()))
        {
            return Err(Error::Config(format!(
                "`{name}` is no scope; expected words with dots between, as in `repo.content`, \
                 or `repo.*` for a scope with all below it"
            )));
        }
        Ok(())
    }
}

impl fmt::Display for Listened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope(name) => write!(f, "`{name}`"),
            Self::Class(class) => write!(f, "a `{}`", class.name()),
        }
    }
}

/// The criteria of a filter. All given criteria must match; of a list, one item must match. Values
/// are compared exactly, and can be values that the Hub does not document.
///
/// `repo`, `ref` and `path` take patterns: `*` is any text without `/`, `**` any number of
/// segments, `?` one byte, `{a,b}` either. `[ab]`, `[a-z]` and `[!a]` are one byte of a set. After
/// a backslash a character has no special meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Criteria {
    /// The scopes and classes. Without them, every event matches.
    ///
    /// An event of an undocumented scope matches that scope. It also matches its nearest documented
    /// scope, as an `update`: see [`narrow`](crate::scope::narrow).
    pub scopes: Vec<Listened>,
    /// The action: `create`, `update`, ...
    pub action: Option<Vec<String>>,
    /// The type of the repository: `model`, `dataset`, `space`, `bucket`, `kernel`.
    pub repo_type: Option<Vec<String>>,
    /// Patterns for the full name of the repository: `me/*`. On a move, for the old name.
    pub repo: Option<Vec<String>>,
    /// The namespace of the repository (the `me` of `me/x`), or the id of its owner. The Hub sends
    /// no other logins.
    pub owner: Option<Vec<String>>,
    /// Patterns for an updated ref. One that does not begin with `refs/` is a branch.
    pub r#ref: Option<Vec<String>>,
    /// Patterns for an updated file of a bucket. This also matches if the Hub left files out of the
    /// list, because the file can be one of them. The same holds for more than 10,000 files, or
    /// more than 4 MiB of paths.
    pub path: Option<Vec<String>>,
    /// True for pull requests, and for pushes to a ref of one; false for the others.
    pub pull_request: Option<bool>,
    /// The status of the discussion: `open`, `closed`, `merged`, `draft`.
    pub status: Option<Vec<String>>,
    /// A login that the comment mentions, in any case, with or without `@`.
    pub mention: Option<Vec<String>>,
    /// The id of the author of the comment or of the new discussion. The Hub names no author of
    /// other events.
    pub author: Option<Vec<String>>,
    /// True for private repositories, false for the others.
    pub private: Option<bool>,
}

impl Criteria {
    /// The values of a criterion that takes several.
    fn words(&self, criterion: Criterion) -> Option<&[String]> {
        match criterion {
            Criterion::Action => self.action.as_deref(),
            Criterion::RepoType => self.repo_type.as_deref(),
            Criterion::Status => self.status.as_deref(),
            Criterion::Owner => self.owner.as_deref(),
            Criterion::Author => self.author.as_deref(),
            Criterion::Repo => self.repo.as_deref(),
            Criterion::Ref => self.r#ref.as_deref(),
            Criterion::Mention => self.mention.as_deref(),
            Criterion::Path => self.path.as_deref(),
            Criterion::Scope | Criterion::Private | Criterion::PullRequest => None,
        }
    }

    /// The value of a criterion that is true or false.
    fn flag(&self, criterion: Criterion) -> Option<bool> {
        match criterion {
            Criterion::Private => self.private,
            Criterion::PullRequest => self.pull_request,
            _ => None,
        }
    }

    fn given(&self) -> Vec<Criterion> {
        let is_given = |criterion: &Criterion| match criterion {
            Criterion::Scope => !self.scopes.is_empty(),
            _ => self.words(*criterion).is_some() || self.flag(*criterion).is_some(),
        };
        CRITERIA.into_iter().filter(is_given).collect()
    }

    /// Check each criterion on its own.
    fn check(&self) -> Result<(), Error> {
        self.scopes.iter().try_for_each(Listened::check)?;
        for criterion in CRITERIA {
            let name = criterion.name();
            let Some(words) = self.words(criterion) else {
                continue;
            };
            if words.is_empty() {
                return Err(Error::Config(format!(
                    "`{name}=` has no alternatives; give at least one, or leave it out to accept any"
                )));
            }
            for word in words {
                if word.is_empty() {
                    return Err(Error::Config(format!(
                        "`{name}=\"\"` is empty; give what is wanted, or leave it out to accept any"
                    )));
                }
                if let Some(mistake) = criterion.mistake(word) {
                    return Err(Error::Config(format!("`{name}={word:?}`: {mistake}")));
                }
            }
        }
        Ok(())
    }
}

/// The names of the criteria.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Criterion {
    Scope,
    Action,
    RepoType,
    Private,
    PullRequest,
    Status,
    Owner,
    Author,
    Repo,
    Ref,
    Mention,
    Path,
}

/// All criteria, the cheapest first.
const CRITERIA: [Criterion; 12] = [
    Criterion::Scope,
    Criterion::Action,
    Criterion::RepoType,
    Criterion::Private,
    Criterion::PullRequest,
    Criterion::Status,
    Criterion::Owner,
    Criterion::Author,
    Criterion::Repo,
    Criterion::Ref,
    Criterion::Mention,
    Criterion::Path,
];

impl Criterion {
    fn name(self) -> &'static str {
        match self {
            Self::Scope => "scopes",
            Self::Action => "action",
            Self::RepoType => "repo_type",
            Self::Private => "private",
            Self::PullRequest => "pull_request",
            Self::Status => "status",
            Self::Owner => "owner",
            Self::Author => "author",
            Self::Repo => "repo",
            Self::Ref => "ref",
            Self::Mention => "mention",
            Self::Path => "path",
        }
    }

    /// The error of a value; None if the value is valid.
    fn mistake(self, word: &str) -> Option<String> {
        match self {
            Self::Repo | Self::Ref | Self::Path => Glob::mistake(word),
            Self::Mention => {
                let login = word.strip_prefix('@').unwrap_or(word);
                let is_login = !login.is_empty()
                    && login
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
                (!is_login).then(|| "expected a login of letters, digits, `-`, `_` and `.`".into())
            }
            _ => None,
        }
    }
}

/// A filter for events. An event can match all its criteria together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    criteria: Criteria,
    /// The given criteria, the cheapest first.
    given: Vec<Criterion>,
    repo: Vec<Glob>,
    refs: Vec<Glob>,
    path: Vec<Glob>,
}

/// The result of a filter for an event, with the reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// True if it matches.
    pub matched: bool,
    /// The rest of a sentence that begins with the handler: `matches`, or `does not match` with all
    /// reasons. It never has the text of a comment.
    pub text: String,
}

impl Filter {
    /// Make a filter.
    ///
    /// # Errors
    ///
    /// A criterion is invalid, or no event can match all criteria together.
    pub fn new(criteria: Criteria) -> Result<Self, Error> {
        criteria.check()?;
        criteria.check_together()?;
        let globs = |criterion, whole: fn(&str) -> String| {
            let patterns = criteria.words(criterion).unwrap_or_default();
            patterns
                .iter()
                .map(|pattern| Glob::new(whole(pattern)))
                .collect()
        };
        Ok(Self {
            given: criteria.given(),
            repo: globs(Criterion::Repo, str::to_owned),
            refs: globs(Criterion::Ref, whole_ref),
            path: globs(Criterion::Path, str::to_owned),
            criteria,
        })
    }

    /// The criteria of the filter.
    pub fn criteria(&self) -> &Criteria {
        &self.criteria
    }

    /// A sentence for each value that no documented event has, with the nearest documented value.
    /// The Hub can add values, so such a filter is valid.
    pub fn value_warnings(&self) -> Vec<String> {
        self.criteria.value_warnings()
    }

    /// The classes of the documented events that can match, for each scope or class of the filter.
    /// None stands for no scope. Undocumented scopes are left out.
    pub fn classes(&self) -> Vec<(Option<&Listened>, Vec<Class>)> {
        self.criteria.classes()
    }

    /// Return true if the event matches.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        self.hears(&Facts::new(event))
    }

    /// Explain why the event matches or not.
    pub fn explain(&self, event: &Event<'_>) -> Explanation {
        let facts = Facts::new(event);
        let (misses, notes): (Vec<_>, Vec<_>) = self.remarks(&facts).partition(Remark::is_miss);
        let matched = misses.is_empty();
        let (verdict, remarks) = if matched {
            ("matches", notes)
        } else {
            ("does not match", misses)
        };
        let mut text = verdict.to_owned();
        for (at, remark) in remarks.iter().enumerate() {
            text += if at == 0 { ": " } else { "; " };
            text += &remark.to_string();
        }
        // The senders of events choose some of the names in it.
        let text = one_line(&text);
        Explanation { matched, text }
    }

    fn hears(&self, facts: &Facts<'_>) -> bool {
        !self.remarks(facts).any(|remark| remark.is_miss())
    }

    fn remarks<'r>(&'r self, facts: &'r Facts<'_>) -> impl Iterator<Item = Remark<'r>> {
        self.given
            .iter()
            .filter_map(|criterion| self.judge(*criterion, facts))
    }

    /// Compare one criterion with an event. None if it matches without a remark.
    fn judge<'r>(&'r self, criterion: Criterion, facts: &'r Facts<'_>) -> Option<Remark<'r>> {
        let event = facts.event;
        let repo = event.repo.as_ref();
        let discussion = event.discussion.as_ref();
        let criteria = &self.criteria;
        match criterion {
            Criterion::Scope => self.judge_scope(facts),
            Criterion::Action => self.judge_action(facts),
            Criterion::RepoType => Remark::unless_one_of(
                "repo type",
                repo.map(|repo| repo.r#type).ok_or("`repo.type`"),
                criteria.repo_type.as_deref()?,
            ),
            Criterion::Private => {
                let wanted = criteria.private?;
                match repo.and_then(|repo| repo.private) {
                    None => Some(Remark::Absent("`repo.private`")),
                    Some(is_private) if is_private == wanted => None,
                    Some(is_private) => Some(Remark::Fact(if is_private {
                        "the repo is private"
                    } else {
                        "the repo is not private"
                    })),
                }
            }
            Criterion::PullRequest => judge_pull_request(event, criteria.pull_request?),
            Criterion::Status => Remark::unless_one_of(
                "status",
                discussion
                    .map(|discussion| discussion.status)
                    .ok_or("`discussion.status`"),
                criteria.status.as_deref()?,
            ),
            Criterion::Owner => {
                let wanted = criteria.owner.as_deref()?;
                let namespace = repo.and_then(|repo| repo.namespace());
                let owner = repo.and_then(|repo| repo.owner.as_ref());
                let names = [namespace, owner.map(|owner| owner.id)];
                if names == [None, None] {
                    return Some(Remark::Absent("`repo.owner`"));
                }
                let is_wanted = |name: &&str| wanted.iter().any(|word| word == name);
                let holds = names.iter().flatten().any(is_wanted);
                (!holds).then_some(Remark::Owner { names, wanted })
            }
            Criterion::Author => {
                Remark::unless_one_of("author", author(facts), criteria.author.as_deref()?)
            }
            Criterion::Repo => {
                let wanted = criteria.repo.as_deref()?;
                match repo.map(|repo| repo.name) {
                    None => Some(Remark::Absent("`repo.name`")),
                    Some(name) if Glob::any(&self.repo, name) => None,
                    Some(found) => Some(Remark::Differs {
                        what: "repo",
                        found,
                        wanted,
                    }),
                }
            }
            Criterion::Ref => {
                let wanted = criteria.r#ref.as_deref()?;
                let refs = &*event.updated_refs;
                if refs.is_empty() {
                    return Some(Remark::Absent("`updated_refs`"));
                }
                let is_wanted = refs
                    .iter()
                    .any(|updated| Glob::any(&self.refs, updated.r#ref));
                (!is_wanted).then_some(Remark::Refs { refs, wanted })
            }
            Criterion::Mention => {
                let wanted = criteria.mention.as_deref()?;
                match event.comment.as_ref() {
                    None => Some(Remark::Absent("`comment`")),
                    Some(comment) if comment.hidden => {
                        Some(Remark::Fact("the comment is hidden and so mentions nobody"))
                    }
                    Some(comment) if wanted.iter().any(|login| comment.mentions(login)) => None,
                    Some(_) => Some(Remark::Mention { wanted }),
                }
            }
            Criterion::Path => self.judge_path(facts),
        }
    }

    fn judge_scope<'r>(&'r self, facts: &'r Facts<'_>) -> Option<Remark<'r>> {
        let heard = self.heard(facts);
        (!heard.as_sent && !heard.as_counted).then_some(Remark::Scope {
            event: facts.event,
            wanted: &self.criteria.scopes,
        })
    }

    fn judge_action<'r>(&'r self, facts: &'r Facts<'_>) -> Option<Remark<'r>> {
        let wanted = self.criteria.action.as_deref()?;
        let event = facts.event;
        let heard = self.heard(facts);
        let is_wanted = |action: &str| wanted.iter().any(|word| word == action);
        // If no scope matches, compare the effective action.
        let is_counted = heard.as_counted || !heard.as_sent;
        let holds =
            (heard.as_sent && is_wanted(event.action)) || (is_counted && is_wanted(facts.action));
        (!holds).then_some(Remark::Action {
            event,
            is_counted,
            wanted,
        })
    }

    /// Compare the scopes with both readings of the event's scope.
    fn heard(&self, facts: &Facts<'_>) -> Heard {
        let scopes = &self.criteria.scopes;
        Heard {
            as_sent: facts.is_narrowed
                && scopes.iter().any(|listened| {
                    matches!(listened, Listened::Scope(_))
                        && listened.covers(facts.event.scope, facts.class, true)
                }),
            as_counted: scopes.is_empty()
                || scopes
                    .iter()
                    .any(|listened| listened.covers(facts.scope, facts.class, facts.is_complete)),
        }
    }

    fn judge_path<'r>(&'r self, facts: &'r Facts<'_>) -> Option<Remark<'r>> {
        let wanted = self.criteria.path.as_deref()?;
        if facts.event.updated_files_truncated {
            return Some(Remark::Truncated);
        }
        let Some(Paths { paths, is_whole }) = facts.paths() else {
            return Some(Remark::Absent("`updated_files`"));
        };
        if !is_whole {
            return Some(Remark::Truncated);
        }
        let is_wanted = paths.iter().any(|path| Glob::any(&self.path, path));
        (!is_wanted).then_some(Remark::Files {
            count: paths.len(),
            wanted,
        })
    }
}

/// Return the indexes of the filters that match, in order.
pub fn match_filters<'f>(
    event: &Event<'_>,
    filters: impl IntoIterator<Item = &'f Filter>,
) -> Vec<usize> {
    let facts = Facts::new(event);
    filters
        .into_iter()
        .enumerate()
        .filter_map(|(at, filter)| filter.hears(&facts).then_some(at))
        .collect()
}

fn judge_pull_request<'r>(event: &Event<'_>, wanted: bool) -> Option<Remark<'r>> {
    let (is_one, yes, no) = if let Some(discussion) = &event.discussion {
        (
            discussion.is_pull_request,
            "the discussion is a pull request",
            "the discussion is not a pull request",
        )
    } else if event.updated_refs.is_empty() {
        return Some(Remark::Absent("`discussion` or `updated_refs`"));
    } else {
        (
            event
                .updated_refs
                .iter()
                .any(|updated| updated.pull_request().is_some()),
            "an updated ref is that of a pull request",
            "no updated ref is that of a pull request",
        )
    };
    (is_one != wanted).then_some(Remark::Fact(if is_one { yes } else { no }))
}

/// The author of the comment or of the new discussion; else the missing field. The author of an
/// older discussion did not cause the event.
fn author<'r>(facts: &'r Facts<'_>) -> Result<&'r str, &'static str> {
    let event = facts.event;
    let is_new_discussion = (facts.scope, facts.action) == ("discussion", "create");
    let (author, place) = match (&event.comment, &event.discussion) {
        (Some(comment), _) => (&comment.author, "`comment.author`"),
        (None, Some(discussion)) if is_new_discussion => {
            (&discussion.author, "`discussion.author`")
        }
        _ => return Err("the author of a comment or of a new discussion"),
    };
    author.as_ref().map(|author| author.id).ok_or(place)
}

/// The facts about an event that filters compare, computed once for all of them.
struct Facts<'e> {
    event: &'e Event<'e>,
    class: Class,
    /// The effective scope and action, and true if the scope differs from the event's own.
    scope: &'e str,
    action: &'e str,
    is_narrowed: bool,
    /// True if the event has the parts that its scope promises.
    is_complete: bool,
    paths: OnceCell<Paths<'e>>,
}

/// The paths of the files of a bucket that filters compare.
struct Paths<'e> {
    paths: Vec<Cow<'e, str>>,
    /// True if no file of the list is left out.
    is_whole: bool,
}

/// The maximum number of files that filters compare, which is the maximum that the Hub lists.
const MOST_FILES: usize = 10_000;

/// The maximum number of bytes of paths that filters compare. Each handler compares them again, so
/// more would block the server for seconds.
const MOST_PATH_BYTES: usize = 4 << 20;

impl<'e> Facts<'e> {
    fn new(event: &'e Event<'e>) -> Self {
        let (scope, action) = event.effective();
        let class = event.class();
        Self {
            event,
            class,
            scope,
            action,
            is_narrowed: event.is_narrowed(),
            is_complete: Class::promised_by(scope).is_none_or(|promise| class.is_a(promise)),
            paths: OnceCell::new(),
        }
    }

    /// The paths of the files of a bucket. There can be 10,000, so they are parsed lazily.
    fn paths(&self) -> Option<&Paths<'e>> {
        let files = self.event.updated_files.as_ref()?;
        Some(self.paths.get_or_init(|| {
            let mut bytes = 0;
            let mut paths = Vec::new();
            for (_, file) in files.iter() {
                bytes += file.path.len();
                if paths.len() == MOST_FILES || bytes > MOST_PATH_BYTES {
                    return Paths {
                        paths,
                        is_whole: false,
                    };
                }
                paths.push(file.path);
            }
            Paths {
                paths,
                is_whole: true,
            }
        }))
    }
}

/// The readings of an event's scope that match. An event of an undocumented scope has two.
struct Heard {
    /// True if the event matches with its own scope and action.
    as_sent: bool,
    /// True if the event matches with its effective scope. Documented events have only this one.
    as_counted: bool,
}

/// A pattern for full names of refs. One that does not begin with `refs/` is a branch.
fn whole_ref(pattern: &str) -> String {
    if pattern.trim_start_matches('{').starts_with("refs/") {
        pattern.to_owned()
    } else {
        format!("refs/heads/{pattern}")
    }
}
