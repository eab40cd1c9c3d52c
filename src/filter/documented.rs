//! The documented events of the Hub, and the check that one of them can meet all criteria.

use super::reason::{listed, quoted};
use super::{Criteria, Criterion, ScopeOrClass};
use crate::error::Error;
use crate::event::Class;

/// Documented events with the same fields.
pub(super) struct Documented {
    pub(super) scope: &'static str,
    actions: &'static [&'static str],
    repo_types: &'static [&'static str],
    pub(super) class: Class,
    /// The criteria with [`Criterion::carriers`] whose fields these events have.
    carries: &'static [Criterion],
}

/// The actions that the Hub documents.
pub const ACTIONS: &[&str] = &["create", "delete", "update", "move"];
/// The types of repositories that a webhook can watch.
pub const REPO_TYPES: &[&str] = &["model", "dataset", "space", "bucket", "kernel"];
/// The statuses of discussions and pull requests that the Hub documents.
pub const STATUSES: &[&str] = &["open", "closed", "merged", "draft"];

/// The statuses that only pull requests have.
const OF_PULL_REQUESTS: &[&str] = &["merged", "draft"];
/// The types of [`REPO_TYPES`] with documented events. Events of kernels are not documented.
const DESCRIBED: &[&str] = &["model", "dataset", "space", "bucket"];
const WITH_REFS: &[&str] = &["model", "dataset", "space"];
const WITH_DISCUSSIONS: &[&str] = WITH_REFS;
const WITH_FILES: &[&str] = &["bucket"];

/// The documented events. Source: <https://huggingface.co/docs/hub/webhooks>.
pub(super) const EVENTS: [Documented; 7] = [
    Documented {
        scope: "repo",
        actions: ACTIONS,
        repo_types: DESCRIBED,
        class: Class::Repo,
        carries: &[],
    },
    Documented {
        scope: "repo.content",
        actions: &["update"],
        repo_types: WITH_REFS,
        class: Class::Content,
        carries: &[Criterion::Ref, Criterion::PullRequest],
    },
    Documented {
        scope: "repo.content",
        actions: &["update"],
        repo_types: WITH_FILES,
        class: Class::Content,
        carries: &[Criterion::Path],
    },
    Documented {
        scope: "repo.config",
        actions: &["update"],
        repo_types: DESCRIBED,
        class: Class::Config,
        carries: &[],
    },
    Documented {
        scope: "discussion",
        actions: &["create"],
        repo_types: WITH_DISCUSSIONS,
        class: Class::Comment,
        carries: &[
            Criterion::PullRequest,
            Criterion::Status,
            Criterion::Mention,
            Criterion::Author,
        ],
    },
    Documented {
        scope: "discussion",
        actions: &["delete", "update"],
        repo_types: WITH_DISCUSSIONS,
        class: Class::Discussion,
        carries: &[Criterion::PullRequest, Criterion::Status],
    },
    Documented {
        scope: "discussion.comment",
        actions: &["create", "update"],
        repo_types: WITH_DISCUSSIONS,
        class: Class::Comment,
        carries: &[
            Criterion::PullRequest,
            Criterion::Status,
            Criterion::Mention,
            Criterion::Author,
        ],
    },
];

impl Criterion {
    /// The events with the field of the criterion, for messages; `None` if all events have it.
    fn carriers(self) -> Option<&'static str> {
        Some(match self {
            Self::PullRequest => {
                "only discussions, their comments and `repo.content` of a model, dataset or space tell of pull requests"
            }
            Self::Status => "only `discussion` and `discussion.comment` have a status",
            Self::Author => {
                "only `discussion.comment` and a new discussion (`discussion`, `create`) name their author"
            }
            Self::Ref => "only `repo.content` of a model, dataset or space names refs",
            Self::Mention => {
                "only `discussion.comment` and a new discussion (`discussion`, `create`) carry a comment"
            }
            Self::Path => "only `repo.content` of a bucket names files",
            Self::Scope
            | Self::Action
            | Self::RepoType
            | Self::Private
            | Self::Owner
            | Self::Repo => return None,
        })
    }
}

impl Criteria {
    /// Check that a documented event can meet all criteria together.
    pub(super) fn check_together(&self) -> Result<(), Error> {
        self.check_status()?;
        let mut given = self.given();
        // The fields of an undocumented scope are unknown.
        if self.can_be(&given) || self.scopes.iter().any(|scope| !scope.is_documented()) {
            return Ok(());
        }
        // Remove each criterion whose removal changes nothing. The rest exclude each other.
        let mut at = 0;
        while at < given.len() {
            let criterion = given.remove(at);
            if self.can_be(&given) {
                given.insert(at, criterion);
                at += 1;
            }
        }
        given.reverse();
        let (first, others) = given.split_first().unwrap_or((&Criterion::Scope, &[]));
        let others = others.iter().map(|criterion| self.shown(*criterion));
        let mut reasons: Vec<_> = given
            .iter()
            .filter_map(|criterion| criterion.carriers())
            .collect();
        if self.wants_discussions_of_buckets(&given) {
            reasons.push("buckets have no discussions");
        }
        let why = if reasons.is_empty() {
            self.documented_actions()
        } else {
            reasons.join(", and ")
        };
        Err(Error::Config(format!(
            "{} with {} never matches: {why}",
            self.shown(*first),
            listed(others, "and")
        )))
    }

    /// Check that not all statuses are those of pull requests if pull requests are excluded.
    fn check_status(&self) -> Result<(), Error> {
        let statuses = self.words(Criterion::Status).unwrap_or_default();
        let is_excluded = |status: &String| OF_PULL_REQUESTS.contains(&&**status);
        if self.pull_request == Some(false)
            && !statuses.is_empty()
            && statuses.iter().all(is_excluded)
        {
            return Err(Error::Config(format!(
                "{} with {} never matches: only pull requests can be {}",
                self.shown(Criterion::Status),
                self.shown(Criterion::PullRequest),
                quoted(OF_PULL_REQUESTS, "or")
            )));
        }
        Ok(())
    }

    /// Whether a discussion meets all criteria except the type of the repository.
    fn wants_discussions_of_buckets(&self, given: &[Criterion]) -> bool {
        given.contains(&Criterion::RepoType)
            && EVENTS.iter().any(|event| {
                event.class.is_a(Class::Discussion)
                    && given.iter().all(|criterion| {
                        *criterion == Criterion::RepoType || self.allows(*criterion, event)
                    })
            })
    }

    /// The classes of the documented events that can meet the criteria, for each scope or class.
    /// `None` stands for criteria without scopes. Undocumented scopes are left out, because the
    /// classes of their events are unknown.
    pub(super) fn classes(&self) -> Vec<(Option<&ScopeOrClass>, Vec<Class>)> {
        let given = self.given();
        let classes_of = |scope: Option<&ScopeOrClass>| {
            let mut classes = Vec::new();
            for event in &EVENTS {
                let is_possible = given.iter().all(|criterion| match (criterion, scope) {
                    (Criterion::Scope, Some(scope)) => scope.covers(event.scope, event.class, true),
                    _ => self.allows(*criterion, event),
                });
                if is_possible && !classes.contains(&event.class) {
                    classes.push(event.class);
                }
            }
            classes
        };
        if self.scopes.is_empty() {
            return vec![(None, classes_of(None))];
        }
        self.scopes
            .iter()
            .filter(|scope| scope.is_documented())
            .map(|scope| (Some(scope), classes_of(Some(scope))))
            .collect()
    }

    /// Name the documented actions of the scopes and classes.
    fn documented_actions(&self) -> String {
        let events = || {
            EVENTS
                .iter()
                .filter(|event| self.allows(Criterion::Scope, event))
        };
        let is_documented = |action: &&&str| events().any(|event| event.actions.contains(action));
        let actions: Vec<_> = ACTIONS.iter().filter(is_documented).collect();
        let verb = if actions.len() == 1 { "is" } else { "are" };
        format!("only {} {verb} documented there", quoted(actions, "and"))
    }

    /// Whether a documented event can meet these criteria.
    fn can_be(&self, criteria: &[Criterion]) -> bool {
        EVENTS.iter().any(|event| {
            criteria
                .iter()
                .all(|criterion| self.allows(*criterion, event))
        })
    }

    /// Whether a documented event can meet this given criterion.
    fn allows(&self, criterion: Criterion, event: &Documented) -> bool {
        // The Hub can add an undocumented word to any event.
        let allows_any = |of_event: &[&str], of_all: &[&str]| {
            let words = self.words(criterion).unwrap_or_default();
            words
                .iter()
                .any(|word| of_event.contains(&&**word) || !of_all.contains(&&**word))
        };
        match criterion {
            Criterion::Scope => self
                .scopes
                .iter()
                .any(|item| item.covers(event.scope, event.class, true)),
            Criterion::Action => allows_any(event.actions, ACTIONS),
            Criterion::RepoType => allows_any(event.repo_types, DESCRIBED),
            _ => criterion.carriers().is_none() || event.carries.contains(&criterion),
        }
    }

    /// A criterion in Python's syntax, for messages.
    fn shown(&self, criterion: Criterion) -> String {
        let name = criterion.name();
        match (self.words(criterion), self.flag(criterion)) {
            (Some([word]), _) => format!("`{name}={word:?}`"),
            (Some(words), _) => format!("`{name}={words:?}`"),
            (None, Some(true)) => format!("`{name}=True`"),
            (None, Some(false)) => format!("`{name}=False`"),
            (None, None) => listed(&self.scopes, "or"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CRITERIA;
    use super::*;
    use crate::scope;

    #[test]
    fn table_has_exactly_the_documented_scopes_and_actions() {
        for (name, actions) in scope::SCOPES {
            let events: Vec<_> = EVENTS.iter().filter(|event| event.scope == name).collect();
            let promise = Class::promised_by(name).expect("a documented scope promises a class");
            assert!(
                events.iter().all(|event| event.class.is_a(promise)),
                "{name}"
            );
            for action in ACTIONS {
                let is_in_table = events.iter().any(|event| event.actions.contains(action));
                assert_eq!(is_in_table, actions.contains(action), "{name} {action}");
            }
            assert!(
                actions.iter().all(|action| ACTIONS.contains(action)),
                "{name}"
            );
        }
        assert!(EVENTS.iter().all(|event| scope::is_documented(event.scope)));
    }

    #[test]
    fn described_types_are_those_of_the_table() {
        for name in REPO_TYPES {
            let is_in_table = EVENTS.iter().any(|event| event.repo_types.contains(name));
            assert_eq!(is_in_table, DESCRIBED.contains(name), "{name}");
        }
    }

    #[test]
    fn table_lists_exactly_the_optional_criteria() {
        for criterion in CRITERIA {
            let is_carried = EVENTS
                .iter()
                .any(|event| event.carries.contains(&criterion));
            assert_eq!(criterion.carriers().is_some(), is_carried, "{criterion:?}");
        }
    }
}
