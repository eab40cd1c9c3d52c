//! Older forms of a body, read as version 3. The Hub still sends version 2 to older webhooks. Early
//! bodies of version 3 have an `author` in place of the `owner` of a repository.

/// A body of version 1 has the name of a repository under `add`, `remove` or `update`.
pub(crate) const VERSION_1: &str =
    "expected a body of version 2 or 3, found version 1 (2021 and 2022), which is not supported";

pub(crate) const SCOPE_MISSING: &str =
    "expected a key `scope` with a string beside the `event` of a version 2 body";

/// The action of a version 2 `event`.
pub(crate) fn action(word: &str) -> &str {
    match word {
        "add" => "create",
        "remove" => "delete",
        _ => word,
    }
}

/// The id of the owner, from `owner: {id}`, `author: {id}` or `authorId`, in this order.
pub(crate) fn owner_id<'a>(
    owner: Option<&'a str>,
    author: Option<&'a str>,
    author_id: Option<&'a str>,
) -> Option<&'a str> {
    owner.or(author).or(author_id)
}
