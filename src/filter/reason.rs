//! Reasons why an event matches a filter or not, as text.

use std::fmt;

use super::ScopeOrClass;
use crate::event::{Class, Event, UpdatedRef};
use crate::text::excerpt;

/// The reason of one criterion. The text is made only when it is shown, because matching needs none.
pub(super) enum Reason<'r> {
    Scope {
        event: &'r Event<'r>,
        wanted: &'r [ScopeOrClass],
    },
    Action {
        event: &'r Event<'r>,
        is_narrowed: bool,
        wanted: &'r [String],
    },
    /// The event does not have this field.
    Absent(&'static str),
    Differs {
        what: &'static str,
        found: &'r str,
        wanted: &'r [String],
    },
    /// A reason with a fixed text.
    Fact(&'static str),
    Owner {
        names: [Option<&'r str>; 2],
        wanted: &'r [String],
    },
    Refs {
        refs: &'r [UpdatedRef<'r>],
        wanted: &'r [String],
    },
    Mention {
        wanted: &'r [String],
    },
    Files {
        count: usize,
        wanted: &'r [String],
    },
    /// The list of files is incomplete. It is the one reason for a match.
    Truncated,
}

impl<'r> Reason<'r> {
    pub(super) fn is_mismatch(&self) -> bool {
        !matches!(self, Self::Truncated)
    }

    pub(super) fn unless_one_of(
        what: &'static str,
        found: Result<&'r str, &'static str>,
        wanted: &'r [String],
    ) -> Option<Self> {
        match found {
            Err(missing) => Some(Self::Absent(missing)),
            Ok(found) if wanted.iter().any(|word| word == found) => None,
            Ok(found) => Some(Self::Differs {
                what,
                found,
                wanted,
            }),
        }
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope { event, wanted } => fmt_scope(f, event, wanted),
            Self::Action {
                event,
                is_narrowed,
                wanted,
            } => {
                let action = excerpt(event.action);
                if *is_narrowed && event.is_narrowed() {
                    let (_, narrowed) = event.effective();
                    let scope = excerpt(event.scope);
                    write!(
                        f,
                        "the action is `{narrowed}` (as `{action}` on `{scope}` counts)"
                    )?;
                } else {
                    write!(f, "the action is `{action}`")?;
                }
                write!(f, ", not {}", quoted(*wanted, "or"))
            }
            Self::Absent(what) => write!(f, "the delivery does not carry {what}"),
            Self::Differs {
                what,
                found,
                wanted,
            } => {
                let found = excerpt(found);
                write!(f, "the {what} is `{found}`, not {}", quoted(*wanted, "or"))
            }
            Self::Fact(fact) => f.write_str(fact),
            Self::Owner { names, wanted } => {
                let names = quoted(
                    names.iter().flatten().map(|name| excerpt(name)),
                    "with the id",
                );
                write!(f, "the owner is {names}, not {}", quoted(*wanted, "or"))
            }
            Self::Refs { refs, wanted } => {
                const SHOWN: usize = 3;
                let names = refs.iter().map(|updated| excerpt(updated.r#ref));
                let shown = quoted(names.take(SHOWN), "and");
                let (noun, verb) = if refs.len() == 1 {
                    ("ref", "is")
                } else {
                    ("refs", "are")
                };
                write!(f, "the updated {noun} {verb} {shown}")?;
                if refs.len() > SHOWN {
                    write!(f, " (and {} more)", refs.len() - SHOWN)?;
                }
                write!(f, ", not {}", quoted(*wanted, "or"))
            }
            Self::Mention { wanted } => {
                write!(f, "the comment does not mention {}", quoted(*wanted, "or"))
            }
            Self::Files { count, wanted } => {
                write!(
                    f,
                    "of {count} updated files, none is {}",
                    quoted(*wanted, "or")
                )
            }
            Self::Truncated => {
                f.write_str("files are left out of the list, and any path may be among them")
            }
        }
    }
}

/// Explain why no wanted scope or class matches: the event has another one, or lacks parts.
fn fmt_scope(
    f: &mut fmt::Formatter<'_>,
    event: &Event<'_>,
    wanted: &[ScopeOrClass],
) -> fmt::Result {
    let (scope, _) = event.effective();
    let wants = |class| wanted.iter().any(|item| item.covers(scope, class, true));
    let lacks_parts = Class::promised_by(scope).is_some_and(wants);
    let wants_scopes = wanted
        .iter()
        .any(|item| matches!(item, ScopeOrClass::Scope(_)));
    let class = event.class().name();
    if wants_scopes || lacks_parts {
        write!(f, "the scope is `{}`", excerpt(scope))?;
        if event.is_narrowed() {
            write!(f, " (as `{}` counts)", excerpt(event.scope))?;
        }
    } else {
        write!(f, "the event is a `{class}`")?;
    }
    if lacks_parts {
        let of_discussion = scope.starts_with("discussion");
        let missing = [
            ("repo", event.repo.is_none()),
            ("discussion", of_discussion && event.discussion.is_none()),
            (
                "comment",
                scope == "discussion.comment" && event.comment.is_none(),
            ),
        ];
        let missing: Vec<_> = missing
            .iter()
            .filter_map(|(part, is_missing)| is_missing.then_some(part))
            .collect();
        let verb = if missing.len() == 1 { "is" } else { "are" };
        return write!(
            f,
            ", but {} {verb} missing or not as documented",
            quoted(missing, "and")
        );
    }
    if wants_scopes
        && wanted
            .iter()
            .any(|item| matches!(item, ScopeOrClass::Class(_)))
    {
        write!(f, " and the event a `{class}`")?;
    }
    write!(f, ", not {}", listed(wanted, "or"))
}

/// Names in backticks: `a`, `b` or `c`.
pub(super) fn quoted<S: fmt::Display>(names: impl IntoIterator<Item = S>, last: &str) -> String {
    listed(names.into_iter().map(|name| format!("`{name}`")), last)
}

pub(super) fn listed<S: fmt::Display>(items: impl IntoIterator<Item = S>, last: &str) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    match items.split_last() {
        Some((end, rest)) if !rest.is_empty() => format!("{} {last} {end}", rest.join(", ")),
        _ => items.concat(),
    }
}
