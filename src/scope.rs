//! The documented scopes and actions, and the rule for undocumented ones.

/// A scope with its documented actions.
pub type Documented = (&'static str, &'static [&'static str]);

/// The documented scopes, broader ones first. Source: <https://huggingface.co/docs/hub/webhooks>.
///
/// The list can change only in a major version. With a sixth scope, its events would no longer match
/// filters on its parent.
pub const SCOPES: [Documented; 5] = [
    ("repo", &["create", "delete", "update", "move"]),
    ("repo.content", &["update"]),
    ("repo.config", &["update"]),
    ("discussion", &["create", "delete", "update"]),
    ("discussion.comment", &["create", "update"]),
];

/// The effective action of an event on an undocumented narrower scope.
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

/// Apply the narrowing rule of the Hub: any action on an undocumented narrower scope is an `update`
/// of the nearest documented scope. Other scopes and actions do not change.
///
/// Source: the section on event scopes of <https://huggingface.co/docs/hub/webhooks>.
pub fn narrow<'a>(scope: &'a str, action: &'a str) -> (&'a str, &'a str) {
    if is_documented(scope) {
        return (scope, action);
    }
    // The longest ancestor is the nearest. Do not split the scope: it can be as long as a body.
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

/// The documented scope nearest to a misspelt one; `None` if none is close.
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
