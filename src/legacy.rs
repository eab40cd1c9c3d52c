//! Older bodies, parsed as version 3. Older webhooks still send version 2. Early bodies of version
//! 3 have an `author` instead of an `owner` in the repository.

use crate::event::Owner;
use crate::read::Id;

/// A body of version 1 names a repository under `add`, `remove` or `update`.
pub(crate) const VERSION_1: &str =
    "expected a body of version 2 or 3, found version 1 (2021 and 2022), which is not supported";

pub(crate) const SCOPE_MISSING: &str =
    "expected a key `scope` with a string beside the `event` of a version 2 body";

/// The action in the `event` of version 2.
pub(crate) fn action(word: &str) -> &str {
    match word {
        "add" => "create",
        "remove" => "delete",
        _ => word,
    }
}

/// The owner, in any of its forms: `owner: {id}`, `author: {id}`, `authorId`.
pub(crate) fn owner<'a>(
    owner: Option<Owner<'a>>,
    author: Option<Owner<'a>>,
    author_id: Option<Id<'a>>,
) -> Option<Owner<'a>> {
    owner
        .or(author)
        .or_else(|| author_id.map(|id| Owner { id: id.text() }))
}
