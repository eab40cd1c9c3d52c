//! Filters: whether an event matches, and the reasons why it does not.
//!
//! `Filter::check_criterion` compares one criterion with an event. [`Filter::matches`] stops at the
//! first mismatch, [`Filter::explain`] checks all criteria. `documented.rs` has the table of the
//! documented events. A filter that no event of it can match is an error.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use crate::error::Error;
use crate::event::{Class, Event};
use crate::text::single_line;
use documented::EVENTS;
use glob::Glob;
use reason::Reason;

mod documented;
mod glob;
mod reason;
mod values;

pub use documented::{ACTIONS, REPO_TYPES, STATUSES};

/// A scope or a class of events.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ScopeOrClass {
    /// A scope. `repo.*` stands for `repo` and all scopes below it.
    ///
    /// The Hub documents the parts of each documented scope. An event without these parts does not
    /// match the name of its scope.
    Scope(String),
    /// A class with its subclasses. [`Class::Comment`] extends [`Class::Discussion`], and all
    /// classes extend [`Class::Other`].
    Class(Class),
}

impl ScopeOrClass {
    /// Whether it includes an event of this scope and class. `is_complete` is true if the event has
    /// the class that its scope promises.
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

    /// Check the form of a scope: words with dots between, and at most one `.*`, at the end.
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

impl fmt::Display for ScopeOrClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope(name) => write!(f, "`{name}`"),
            Self::Class(class) => write!(f, "a `{}`", class.name()),
        }
    }
}

/// The criteria of a filter. An event matches if it meets all given criteria. It meets a criterion
/// if it matches one of the alternatives. Words are compared exactly. They can be words that the Hub
/// does not document.
///
/// `repo`, `ref` and `path` take patterns. `*` is any text without `/`, and `**` any number of
/// segments. `?` is one byte, and `[ab]`, `[a-z]` and `[!a]` are one byte of a set. `{a,b}` is
/// either. A backslash escapes the next character.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Criteria {
    /// The scopes and classes. If there are none, all events match.
    ///
    /// An event on an undocumented scope matches the name of its scope. It also matches its nearest
    /// documented ancestor, as an `update`: see [`narrow`](crate::scope::narrow).
    pub scopes: Vec<ScopeOrClass>,
    /// The action: `create`, `update`, ...
    pub action: Option<Vec<String>>,
    /// The type of the repository: `model`, `dataset`, `space`, `bucket`, `kernel`.
    pub repo_type: Option<Vec<String>>,
    /// The repository's full name, as patterns: `me/*`. On a move, the old name.
    pub repo: Option<Vec<String>>,
    /// The owner of the repository: the namespace (the `me` of `me/x`) or the owner's id. The Hub
    /// sends no logins, but a namespace is one.
    pub owner: Option<Vec<String>>,
    /// An updated ref, as patterns. A pattern that does not begin with `refs/` names a branch.
    pub r#ref: Option<Vec<String>>,
    /// The path of an updated file of a bucket, as patterns. It matches every event with an
    /// incomplete list, because the file can be one of the missing ones. A list with more than
    /// 10,000 files or 4 MiB of paths counts as incomplete.
    pub path: Option<Vec<String>>,
    /// Whether the discussion is a pull request. For `repo.content`: whether an updated ref belongs
    /// to a pull request.
    pub pull_request: Option<bool>,
    /// The status of the discussion: `open`, `closed`, `merged`, `draft`.
    pub status: Option<Vec<String>>,
    /// A login that the comment mentions, in any case, with or without `@`.
    pub mention: Option<Vec<String>>,
    /// The id of the author of the comment or of the new discussion. Other events have no author.
    pub author: Option<Vec<String>>,
    /// Whether the repository is private.
    pub private: Option<bool>,
}

impl Criteria {
    /// The given alternatives of a criterion with words or patterns.
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

    /// The given value of a criterion that is true or false.
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

    /// Check each criterion alone.
    fn check(&self) -> Result<(), Error> {
        self.scopes.iter().try_for_each(ScopeOrClass::check)?;
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
                if let Some(error) = criterion.error(word) {
                    return Err(Error::Config(format!("`{name}={word:?}`: {error}")));
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

/// All criteria, the cheapest checks first.
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

    /// The error of an alternative, if it has one.
    fn error(self, word: &str) -> Option<String> {
        match self {
            Self::Repo | Self::Ref | Self::Path => Glob::error(word),
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

/// A filter for events. A documented event can meet all its criteria together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    criteria: Criteria,
    /// The given criteria, the cheapest checks first.
    given: Vec<Criterion>,
    repo: Vec<Glob>,
    refs: Vec<Glob>,
    path: Vec<Glob>,
}

/// Whether a filter matches an event, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it matches.
    pub matched: bool,
    /// `matches`, or `does not match` with all reasons. It never has the text of a comment.
    pub text: String,
}

impl Filter {
    /// Make a filter. The error names an invalid criterion, or the criteria that exclude each other.
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

    /// Return a sentence for each value that no documented event has, with the nearest documented
    /// value. The Hub can add values, so such a filter is valid.
    pub fn value_warnings(&self) -> Vec<String> {
        self.criteria.value_warnings()
    }

    /// The classes of the documented events that can match, for each scope or class of the filter.
    /// `None` stands for a filter without scopes. Undocumented scopes are left out.
    pub fn classes(&self) -> Vec<(Option<&ScopeOrClass>, Vec<Class>)> {
        self.criteria.classes()
    }

    /// Whether an event matches.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        self.matches_context(&MatchContext::new(event))
    }

    /// Explain why an event matches or not, with all reasons.
    pub fn explain(&self, event: &Event<'_>) -> Explanation {
        let context = MatchContext::new(event);
        let (misses, notes): (Vec<_>, Vec<_>) =
            self.reasons(&context).partition(Reason::is_mismatch);
        let matched = misses.is_empty();
        let (result, reasons) = if matched {
            ("matches", notes)
        } else {
            ("does not match", misses)
        };
        let mut text = result.to_owned();
        for (at, reason) in reasons.iter().enumerate() {
            text += if at == 0 { ": " } else { "; " };
            text += &reason.to_string();
        }
        // Anybody can choose some of the names in it.
        let text = single_line(&text);
        Explanation { matched, text }
    }

    fn matches_context(&self, context: &MatchContext<'_>) -> bool {
        !self.reasons(context).any(|reason| reason.is_mismatch())
    }

    fn reasons<'r>(&'r self, context: &'r MatchContext<'_>) -> impl Iterator<Item = Reason<'r>> {
        self.given
            .iter()
            .filter_map(|criterion| self.check_criterion(*criterion, context))
    }

    /// Check one criterion: `None` if the event meets it and there is nothing to add.
    fn check_criterion<'r>(
        &'r self,
        criterion: Criterion,
        context: &'r MatchContext<'_>,
    ) -> Option<Reason<'r>> {
        let event = context.event;
        let repo = event.repo.as_ref();
        let discussion = event.discussion.as_ref();
        let criteria = &self.criteria;
        match criterion {
            Criterion::Scope => self.check_scope(context),
            Criterion::Action => self.check_action(context),
            Criterion::RepoType => Reason::unless_one_of(
                "repo type",
                repo.map(|repo| repo.r#type).ok_or("`repo.type`"),
                criteria.repo_type.as_deref()?,
            ),
            Criterion::Private => {
                let wanted = criteria.private?;
                match repo.and_then(|repo| repo.private) {
                    None => Some(Reason::Absent("`repo.private`")),
                    Some(is_private) if is_private == wanted => None,
                    Some(is_private) => Some(Reason::Fact(if is_private {
                        "the repo is private"
                    } else {
                        "the repo is not private"
                    })),
                }
            }
            Criterion::PullRequest => check_pull_request(event, criteria.pull_request?),
            Criterion::Status => Reason::unless_one_of(
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
                    return Some(Reason::Absent("`repo.owner`"));
                }
                let is_wanted = |name: &&str| wanted.iter().any(|word| word == name);
                let matches = names.iter().flatten().any(is_wanted);
                (!matches).then_some(Reason::Owner { names, wanted })
            }
            Criterion::Author => {
                Reason::unless_one_of("author", author(context), criteria.author.as_deref()?)
            }
            Criterion::Repo => {
                let wanted = criteria.repo.as_deref()?;
                match repo.map(|repo| repo.name) {
                    None => Some(Reason::Absent("`repo.name`")),
                    Some(name) if Glob::any(&self.repo, name) => None,
                    Some(found) => Some(Reason::Differs {
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
                    return Some(Reason::Absent("`updated_refs`"));
                }
                let is_wanted = refs
                    .iter()
                    .any(|updated| Glob::any(&self.refs, updated.r#ref));
                (!is_wanted).then_some(Reason::Refs { refs, wanted })
            }
            Criterion::Mention => {
                let wanted = criteria.mention.as_deref()?;
                match event.comment.as_ref() {
                    None => Some(Reason::Absent("`comment`")),
                    Some(comment) if comment.hidden => {
                        Some(Reason::Fact("the comment is hidden and so mentions nobody"))
                    }
                    Some(comment) if wanted.iter().any(|login| comment.mentions(login)) => None,
                    Some(_) => Some(Reason::Mention { wanted }),
                }
            }
            Criterion::Path => self.check_path(context),
        }
    }

    fn check_scope<'r>(&'r self, context: &'r MatchContext<'_>) -> Option<Reason<'r>> {
        let scope_match = self.scope_match(context);
        (!scope_match.as_sent && !scope_match.as_narrowed).then_some(Reason::Scope {
            event: context.event,
            wanted: &self.criteria.scopes,
        })
    }

    fn check_action<'r>(&'r self, context: &'r MatchContext<'_>) -> Option<Reason<'r>> {
        let wanted = self.criteria.action.as_deref()?;
        let event = context.event;
        let ScopeMatch {
            as_sent,
            as_narrowed,
        } = self.scope_match(context);
        let is_wanted = |action: &str| wanted.iter().any(|word| word == action);
        // If no scope matches, the reason still names the narrowed action.
        let is_narrowed = as_narrowed || !as_sent;
        let matches =
            (as_sent && is_wanted(event.action)) || (is_narrowed && is_wanted(context.action));
        (!matches).then_some(Reason::Action {
            event,
            is_narrowed,
            wanted,
        })
    }

    /// Compare the scope of an event with the scopes and classes of the filter.
    fn scope_match(&self, context: &MatchContext<'_>) -> ScopeMatch {
        let scopes = &self.criteria.scopes;
        ScopeMatch {
            as_sent: context.is_narrowed
                && scopes.iter().any(|wanted| {
                    matches!(wanted, ScopeOrClass::Scope(_))
                        && wanted.covers(context.event.scope, context.class, true)
                }),
            as_narrowed: scopes.is_empty()
                || scopes
                    .iter()
                    .any(|wanted| wanted.covers(context.scope, context.class, context.is_complete)),
        }
    }

    fn check_path<'r>(&'r self, context: &'r MatchContext<'_>) -> Option<Reason<'r>> {
        let wanted = self.criteria.path.as_deref()?;
        if context.event.updated_files_truncated {
            return Some(Reason::Truncated);
        }
        let Some(Paths { paths, is_whole }) = context.paths() else {
            return Some(Reason::Absent("`updated_files`"));
        };
        if !is_whole {
            return Some(Reason::Truncated);
        }
        let is_wanted = paths.iter().any(|path| Glob::any(&self.path, path));
        (!is_wanted).then_some(Reason::Files {
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
    let context = MatchContext::new(event);
    filters
        .into_iter()
        .enumerate()
        .filter_map(|(at, filter)| filter.matches_context(&context).then_some(at))
        .collect()
}

fn check_pull_request<'r>(event: &Event<'_>, wanted: bool) -> Option<Reason<'r>> {
    let (is_one, yes, no) = if let Some(discussion) = &event.discussion {
        (
            discussion.is_pull_request,
            "the discussion is a pull request",
            "the discussion is not a pull request",
        )
    } else if event.updated_refs.is_empty() {
        return Some(Reason::Absent("`discussion` or `updated_refs`"));
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
    (is_one != wanted).then_some(Reason::Fact(if is_one { yes } else { no }))
}

/// The author of the comment or of the new discussion, or the name of the missing field. Later
/// events of a discussion are not caused by its author.
fn author<'r>(context: &'r MatchContext<'_>) -> Result<&'r str, &'static str> {
    let event = context.event;
    let is_new_discussion = (context.scope, context.action) == ("discussion", "create");
    let (author, field) = match (&event.comment, &event.discussion) {
        (Some(comment), _) => (&comment.author, "`comment.author`"),
        (None, Some(discussion)) if is_new_discussion => {
            (&discussion.author, "`discussion.author`")
        }
        _ => return Err("the author of a comment or of a new discussion"),
    };
    author.as_ref().map(|author| author.id).ok_or(field)
}

/// Facts of one event, computed once for all filters.
struct MatchContext<'e> {
    event: &'e Event<'e>,
    class: Class,
    /// The effective scope and action of the event.
    scope: &'e str,
    action: &'e str,
    /// Whether the effective scope differs from the scope of the event.
    is_narrowed: bool,
    /// Whether the event has the class that its scope promises.
    is_complete: bool,
    paths: OnceCell<Paths<'e>>,
}

/// The paths of a bucket's files that filters compare.
struct Paths<'e> {
    paths: Vec<Cow<'e, str>>,
    /// Whether they are the paths of all files of the list.
    is_whole: bool,
}

/// The largest number of files that filters compare. The Hub lists at most as many.
const MOST_FILES: usize = 10_000;

/// The largest size of all paths that filters compare, in bytes. Each handler compares them again, so
/// more bytes would block the server for seconds.
const MOST_PATH_BYTES: usize = 4 << 20;

impl<'e> MatchContext<'e> {
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

    /// The paths of a bucket's files. They are read at the first call, because there can be 10,000.
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

/// How the scope of an event matches. An event on an undocumented scope can match in two ways.
struct ScopeMatch {
    /// It matches with its own scope and action.
    as_sent: bool,
    /// It matches with the effective ones: as an `update` of the nearest documented ancestor.
    /// Documented events match only in this way.
    as_narrowed: bool,
}

/// The pattern of a full ref. A pattern that does not begin with `refs/` names a branch.
fn whole_ref(pattern: &str) -> String {
    if pattern.trim_start_matches('{').starts_with("refs/") {
        pattern.to_owned()
    } else {
        format!("refs/heads/{pattern}")
    }
}
