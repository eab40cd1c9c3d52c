//! The scopes and actions the Hub documents, and the rule for reading ones it has not yet told us about.

/// A scope with the actions the Hub documents for it.
pub type Documented = (&'static str, &'static [&'static str]);

/// The documented scopes, broader ones first. Source: <https://huggingface.co/docs/hub/webhooks>.
///
/// Frozen per major version: were a sixth scope added here, its events would stop reaching the
/// handlers that hear them today as updates of its parent.
pub const SCOPES: [Documented; 5] = [
    ("repo", &["create", "delete", "update", "move"]),
    ("repo.content", &["update"]),
    ("repo.config", &["update"]),
    ("discussion", &["create", "delete", "update"]),
    ("discussion.comment", &["create", "update"]),
];

/// What any action on an undocumented narrower scope counts as on its nearest documented ancestor.
pub const NARROWED_ACTION: &str = "update";

/// Whether the Hub documents this scope.
pub fn is_documented(scope: &str) -> bool {
    SCOPES.iter().any(|(name, _)| *name == scope)
}

/// Whether the Hub documents this action on this scope.
pub fn is_known(scope: &str, action: &str) -> bool {
    SCOPES
        .iter()
        .any(|(name, actions)| *name == scope && actions.contains(&action))
}

/// Read a scope and action as the Hub asks receivers to: any action on a scope narrower than a
/// documented one is an `update` of that one. Everything else stays as it is.
///
/// Source: the section on event scopes of <https://huggingface.co/docs/hub/webhooks>.
pub fn narrow<'a>(scope: &'a str, action: &'a str) -> (&'a str, &'a str) {
    if is_documented(scope) {
        return (scope, action);
    }
    // The longest one is the nearest. The scope itself may be as long as a body.
    let ancestor = SCOPES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| {
            scope
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('.'))
        })
        .max_by_key(|name| name.len());
    match ancestor {
        Some(ancestor) => (ancestor, NARROWED_ACTION),
        None => (scope, action),
    }
}

/// The documented scope that a misspelt one most likely means, if any is close.
pub fn nearest(scope: &str) -> Option<&'static str> {
    const CLOSE: f64 = 0.75;
    let scope = scope.to_ascii_lowercase();
    SCOPES
        .iter()
        .map(|(name, _)| (*name, strsim::normalized_damerau_levenshtein(name, &scope)))
        .filter(|(_, likeness)| *likeness >= CLOSE)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(name, _)| name)
}
