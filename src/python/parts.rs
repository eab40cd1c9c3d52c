//! The parts of an event, as views of the shared body.

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use serde_json::{Value, json};

use super::convert::{quoted, word};
use super::shared::EventCell;
use super::view::{cached, view};
use crate::event;

view!(
    /// The repository of an event.
    Repo at () { url: Url, owner: Owner }
    find |event, _at| event.repo.as_ref();
    hash |part| part.name.to_owned();
    value |shared, _at, _part| shared.value_at(&["repo"]);
    path |_at| ("repo", None);
    /// The type: `model`, `dataset`, `space`, `bucket`, `kernel`, or one that the Hub adds later.
    #[getter]
    fn r#type<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        word(py, self.part().r#type)
    }

    /// The full name, `owner/name`. The oldest repositories have only `name`. On a move, the old name.
    #[getter]
    fn name(&self) -> &str {
        self.part().name
    }

    /// The `owner` of `owner/name`; None if the name has no owner.
    #[getter]
    fn namespace(&self) -> Option<&str> {
        self.part().namespace()
    }

    /// The id. It does not change when the repository is renamed.
    #[getter]
    fn id(&self) -> Option<&str> {
        self.part().id
    }

    /// True if the repository is private; None if the body does not say it.
    #[getter]
    fn private(&self) -> Option<bool> {
        self.part().private
    }

    /// The URLs.
    #[getter]
    fn url(&self, py: Python<'_>) -> PyResult<Option<Py<Url>>> {
        cached(py, &self.url, || Url::of(&self.shared, Parent::Repo))
    }

    /// The owner.
    #[getter]
    fn owner(&self, py: Python<'_>) -> PyResult<Option<Py<Owner>>> {
        cached(py, &self.owner, || Owner::of(&self.shared, Parent::Repo))
    }

    /// The newest commit of `main`, also if another ref was pushed. The Hub does not send it for
    /// buckets and for scopes that begin with `discussion`.
    #[getter]
    fn head_sha(&self) -> Option<&str> {
        self.part().head_sha
    }

    /// The host name of a Space, without the domain.
    #[getter]
    fn subdomain(&self) -> Option<&str> {
        self.part().subdomain
    }

    /// The tags. Only older bodies have them.
    #[getter]
    fn tags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.part().tags)
    }

    /// The name of the storage. Only older bodies have it.
    #[getter]
    fn gitaly_uid(&self) -> Option<&str> {
        self.part().gitaly_uid
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (r#type, name) = (quoted(py, self.part().r#type)?, quoted(py, self.part().name)?);
        Ok(format!("Repo(type={type}, name={name})"))
    }
);

view!(
    /// The URLs of something on the Hub.
    Url at Parent {}
    find |event, at| match at {
        Parent::Repo => event.repo.as_ref()?.url.as_ref(),
        Parent::Discussion => event.discussion.as_ref()?.url.as_ref(),
        Parent::Comment => event.comment.as_ref()?.url.as_ref(),
        Parent::MovedTo => None,
    };
    hash |part| part.web.to_owned();
    value |shared, at, _part| shared.value_at(&[at.key(), "url"]);
    path |at| (at.url_path(), None);
    /// The URL of the page.
    #[getter]
    fn web(&self) -> &str {
        self.part().web
    }

    /// The URL of the API; None for comments.
    #[getter]
    fn api(&self) -> Option<&str> {
        self.part().api
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Url(web={})", quoted(py, self.part().web)?))
    }
);

view!(
    /// A user or an organisation. The Hub sends the id, and never a login.
    Owner at Parent {}
    find |event, at| match at {
        Parent::Repo => event.repo.as_ref()?.owner.as_ref(),
        Parent::Discussion => event.discussion.as_ref()?.author.as_ref(),
        Parent::Comment => event.comment.as_ref()?.author.as_ref(),
        Parent::MovedTo => event.moved_to.as_ref()?.owner.as_ref(),
    };
    // An id that is not a string can be written in several ways, so it does not count.
    hash |_part| ();
    value |shared, at, part| owner_value(shared, at, part.id);
    path |at| (at.owner_path(), None);
    /// The id.
    #[getter]
    fn id(&self) -> &str {
        self.part().id
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Owner(id={})", quoted(py, self.part().id)?))
    }
);

view!(
    /// A discussion or a pull request.
    Discussion at () { url: Url, author: Owner, changes: Changes }
    find |event, _at| event.discussion.as_ref();
    hash |part| part.num;
    value |shared, _at, _part| shared.value_at(&["discussion"]);
    path |_at| ("discussion", None);
    /// The id. The Hub's API and pages use `num` instead.
    #[getter]
    fn id(&self) -> Option<&str> {
        self.part().id
    }

    /// The title.
    #[getter]
    fn title(&self) -> &str {
        self.part().title
    }

    /// The URLs.
    #[getter]
    fn url(&self, py: Python<'_>) -> PyResult<Option<Py<Url>>> {
        cached(py, &self.url, || Url::of(&self.shared, Parent::Discussion))
    }

    /// The status: `open`, `closed`, `merged`, `draft`, or one that the Hub adds later.
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        word(py, self.part().status)
    }

    /// The user who opened it, and not the user who caused the event.
    #[getter]
    fn author(&self, py: Python<'_>) -> PyResult<Option<Py<Owner>>> {
        cached(py, &self.author, || Owner::of(&self.shared, Parent::Discussion))
    }

    /// The number in the repository. Discussions and pull requests share the numbers.
    #[getter]
    fn num(&self) -> u64 {
        self.part().num
    }

    /// True if it is a pull request.
    #[getter]
    fn is_pull_request(&self) -> bool {
        self.part().is_pull_request
    }

    /// The target branch and merge commit of a pull request.
    #[getter]
    fn changes(&self, py: Python<'_>) -> PyResult<Option<Py<Changes>>> {
        cached(py, &self.changes, || Changes::of(&self.shared, ()))
    }

    /// True if it is pinned; None if the body does not say it.
    #[getter]
    fn pinned(&self) -> Option<bool> {
        self.part().pinned
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let part = self.part();
        Ok(format!(
            "Discussion(num={}, title={}, status={}, is_pull_request={})",
            part.num,
            quoted(py, part.title)?,
            quoted(py, part.status)?,
            if part.is_pull_request { "True" } else { "False" },
        ))
    }
);

view!(
    /// The target branch and merge commit of a pull request.
    Changes at () {}
    find |event, _at| event.discussion.as_ref()?.changes.as_ref();
    hash |part| part.base.map(str::to_owned);
    value |shared, _at, _part| shared.value_at(&["discussion", "changes"]);
    path |_at| ("discussion.changes", None);
    /// The full name of the target ref: `refs/heads/main`.
    #[getter]
    fn base(&self) -> Option<&str> {
        self.part().base
    }

    /// The merge commit; None until it is merged.
    #[getter]
    fn merge_commit_id(&self) -> Option<&str> {
        self.part().merge_commit_id
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let base = match self.part().base {
            Some(base) => quoted(py, base)?,
            None => "None".to_owned(),
        };
        Ok(format!("Changes(base={base})"))
    }
);

view!(
    /// A comment, or the first post of a discussion.
    Comment at () { author: Owner, url: Url }
    find |event, _at| event.comment.as_ref();
    hash |part| part.content.to_owned();
    value |shared, _at, _part| shared.value_at(&["comment"]);
    path |_at| ("comment", None);
    /// The id.
    #[getter]
    fn id(&self) -> Option<&str> {
        self.part().id
    }

    /// The user who wrote it.
    #[getter]
    fn author(&self, py: Python<'_>) -> PyResult<Option<Py<Owner>>> {
        cached(py, &self.author, || Owner::of(&self.shared, Parent::Comment))
    }

    /// The text. It is empty if the comment is hidden, because the Hub sends none.
    #[getter]
    fn content(&self) -> &str {
        self.part().content
    }

    /// True if it is hidden.
    #[getter]
    fn hidden(&self) -> bool {
        self.part().hidden
    }

    /// The URLs.
    #[getter]
    fn url(&self, py: Python<'_>) -> PyResult<Option<Py<Url>>> {
        cached(py, &self.url, || Url::of(&self.shared, Parent::Comment))
    }

    /// Return True if the text mentions `@name`, in any case. A part of a longer login or of an e-mail
    /// address does not count.
    #[pyo3(signature = (name, /))]
    fn mentions(&self, name: &str) -> bool {
        self.part().mentions(name)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let content = quoted(py, self.part().content)?;
        let hidden = if self.part().hidden { "True" } else { "False" };
        Ok(format!("Comment(content={content}, hidden={hidden})"))
    }
);

view!(
    /// The webhook that sent a delivery.
    Webhook at () {}
    find |event, _at| event.webhook.as_ref();
    hash |part| part.version;
    value |shared, _at, _part| shared.value_at(&["webhook"]);
    path |_at| ("webhook", None);
    /// The id of the webhook. The id of the delivery is in the header `Webhook-Id`.
    #[getter]
    fn id(&self) -> &str {
        self.part().id
    }

    /// The version of the body. It is 3 since 2022.
    #[getter]
    fn version(&self) -> Option<u64> {
        self.part().version
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Webhook(id={})", quoted(py, self.part().id)?))
    }
);

view!(
    /// The new name and owner of a moved repository.
    MovedTo at () { owner: Owner }
    find |event, _at| event.moved_to.as_ref();
    hash |part| part.name.to_owned();
    value |shared, _at, _part| moved_to_value(shared);
    path |_at| ("moved_to", None);
    /// The new name, `owner/name`.
    #[getter]
    fn name(&self) -> &str {
        self.part().name
    }

    /// The new owner.
    #[getter]
    fn owner(&self, py: Python<'_>) -> PyResult<Option<Py<Owner>>> {
        cached(py, &self.owner, || Owner::of(&self.shared, Parent::MovedTo))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("MovedTo(name={})", quoted(py, self.part().name)?))
    }
);

view!(
    /// A ref that a push created, moved or deleted.
    UpdatedRef at usize {}
    find |event, at| event.updated_refs.get(at);
    hash |part| (part.r#ref.to_owned(), part.new_sha.map(str::to_owned));
    value |shared, at, _part| ref_value(shared, at);
    path |at| ("updated_refs", Some(at));
    /// The full name: `refs/heads/main`, `refs/tags/v1`, `refs/pr/3`, `refs/convert/parquet`.
    #[getter]
    fn r#ref(&self) -> &str {
        self.part().r#ref
    }

    /// The old commit; None if the push created the ref.
    #[getter]
    fn old_sha(&self) -> Option<&str> {
        self.part().old_sha
    }

    /// The new commit; None if the push deleted the ref.
    #[getter]
    fn new_sha(&self) -> Option<&str> {
        self.part().new_sha
    }

    /// The name of the branch; None if the ref is not a branch.
    #[getter]
    fn branch(&self) -> Option<&str> {
        self.part().branch()
    }

    /// The name of the tag; None if the ref is not a tag.
    #[getter]
    fn tag(&self) -> Option<&str> {
        self.part().tag()
    }

    /// The number of the pull request; None if the ref is not one.
    #[getter]
    fn pull_request(&self) -> Option<u64> {
        self.part().pull_request()
    }

    /// True if the push created the ref.
    #[getter]
    fn is_created(&self) -> bool {
        self.part().is_created()
    }

    /// True if the push deleted the ref.
    #[getter]
    fn is_deleted(&self) -> bool {
        self.part().is_deleted()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("UpdatedRef(ref={})", quoted(py, self.part().r#ref)?))
    }
);

/// The parent of a `Url` or an `Owner` in an event.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parent {
    Repo,
    Discussion,
    Comment,
    MovedTo,
}

impl Parent {
    fn key(self) -> &'static str {
        match self {
            Self::Repo => "repo",
            Self::Discussion => "discussion",
            Self::Comment => "comment",
            Self::MovedTo => "movedTo",
        }
    }

    fn url_path(self) -> &'static str {
        match self {
            Self::Repo => "repo.url",
            Self::Discussion => "discussion.url",
            Self::Comment => "comment.url",
            Self::MovedTo => "moved_to.url",
        }
    }

    fn owner_path(self) -> &'static str {
        match self {
            Self::Repo => "repo.owner",
            Self::Discussion => "discussion.author",
            Self::Comment => "comment.author",
            Self::MovedTo => "moved_to.owner",
        }
    }
}

/// The JSON of an owner. Version 2 sends the id alone, and older bodies call an owner `author`.
fn owner_value(shared: &EventCell, parent: Parent, id: &str) -> Value {
    let keys: &[&str] = match parent {
        Parent::Repo => &["owner", "author"],
        Parent::Discussion | Parent::Comment => &["author"],
        Parent::MovedTo => &["owner"],
    };
    keys.iter()
        .map(|key| shared.value_at(&[parent.key(), key]))
        .find(|value| value.get("id").is_some_and(|id| !id.is_null()))
        .unwrap_or_else(|| json!({ "id": id }))
}

/// The JSON of a new name. Version 2 sends the name alone.
fn moved_to_value(shared: &EventCell) -> Value {
    match shared.value_at(&["movedTo"]) {
        Value::String(name) => json!({ "name": name }),
        value => value,
    }
}

/// The JSON of a ref. Invalid elements of the list do not count.
fn ref_value(shared: &EventCell, index: usize) -> Value {
    match shared.value_at(&["updatedRefs"]) {
        Value::Array(refs) => refs
            .into_iter()
            .filter(|value| value.get("ref").is_some_and(Value::is_string))
            .nth(index)
            .unwrap_or_default(),
        _ => Value::Null,
    }
}

impl UpdatedRef {
    pub(super) fn all_of(shared: &EventCell) -> impl Iterator<Item = Self> {
        (0..shared.event().updated_refs.len()).filter_map(|index| Self::of(shared, index))
    }
}
