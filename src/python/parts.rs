//! The parts of an event: small frozen views of the shared body.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use serde_json::{Value, json};

use super::convert::{compared, quoted, to_python, word};
use super::event::{HubEvent, view};
use super::shared::Shared;
use crate::event;

/// The reason why a view's part exists: a view is only made of an existing part, and events never change.
const THERE: &str = "a view is made of a part that is there";

/// The methods of all parts.
pub(super) trait Part {
    fn shared(&self) -> &Shared;

    /// The part as JSON, as the body has it.
    fn value(&self) -> Value;

    /// The way from the event to the part: attributes, and the index in a tuple.
    fn path(&self) -> (&'static str, Option<usize>);
}

/// Define the Python methods of a part: its own, and those of all parts.
macro_rules! part {
    ($class:ident { $($methods:tt)* }) => {
        #[pymethods]
        impl $class {
            $($methods)*

            /// Return the part as a new dict, with all keys as the Hub sent them.
            fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
                Ok(to_python(py, &Part::value(self))?.cast_into()?)
            }

            fn __eq__<'py>(&self, other: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
                compared(other, |other| {
                    std::ptr::eq(self, other) || Part::value(self) == Part::value(other)
                })
            }

            fn __hash__(&self) -> u64 {
                let mut hasher = DefaultHasher::new();
                self.key().hash(&mut hasher);
                hasher.finish()
            }

            fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
                let py = slf.py();
                let part = slf.get();
                let (attributes, index) = Part::path(part);
                let event = HubEvent::wrap(py, Part::shared(part).clone())?;
                let restore = py.import("hubhooks._core")?.getattr("_unpickle_view")?;
                (restore, (event, attributes, index)).into_pyobject(py)
            }

            fn __copy__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
                slf
            }
            fn __deepcopy__<'py>(slf: Bound<'py, Self>, _memo: Bound<'py, PyAny>) -> Bound<'py, Self> {
                slf
            }
        }
    };
}
pub(super) use part;

/// Return the part of an unpickled event.
#[pyfunction]
#[pyo3(name = "_unpickle_view")]
pub(crate) fn restore_part<'py>(
    event: &Bound<'py, PyAny>,
    attributes: &str,
    index: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let part = attributes
        .split('.')
        .try_fold(event.clone(), |object, name| object.getattr(name))?;
    match index {
        Some(index) => part.get_item(index),
        None => Ok(part),
    }
}

/// The repository of an event.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct Repo {
    shared: Shared,
    url: OnceLock<Py<Url>>,
    owner: OnceLock<Py<Owner>>,
}

impl Repo {
    pub(super) fn of(shared: &Shared) -> Option<Self> {
        shared.event().repo.as_ref()?;
        Some(Self {
            shared: shared.clone(),
            url: OnceLock::new(),
            owner: OnceLock::new(),
        })
    }

    fn part(&self) -> &event::Repo<'_> {
        self.shared.event().repo.as_ref().expect(THERE)
    }

    fn key(&self) -> impl Hash {
        self.part().name.to_owned()
    }
}

impl Part for Repo {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn value(&self) -> Value {
        self.shared.value_at(&["repo"])
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        ("repo", None)
    }
}

part!(Repo {
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
        view(py, &self.url, || Url::of(&self.shared, Place::Repo))
    }

    /// The owner.
    #[getter]
    fn owner(&self, py: Python<'_>) -> PyResult<Option<Py<Owner>>> {
        view(py, &self.owner, || Owner::of(&self.shared, Place::Repo))
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
});

/// The parent of a `Url` or an `Owner` in an event.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Repo,
    Discussion,
    Comment,
    MovedTo,
}

/// The URLs of something on the Hub.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct Url {
    shared: Shared,
    place: Place,
}

impl Url {
    fn of(shared: &Shared, place: Place) -> Option<Self> {
        Self::find(shared, place)?;
        Some(Self {
            shared: shared.clone(),
            place,
        })
    }

    fn find(shared: &Shared, place: Place) -> Option<&event::Url<'_>> {
        let event = shared.event();
        match place {
            Place::Repo => event.repo.as_ref()?.url.as_ref(),
            Place::Discussion => event.discussion.as_ref()?.url.as_ref(),
            Place::Comment => event.comment.as_ref()?.url.as_ref(),
            Place::MovedTo => None,
        }
    }

    fn part(&self) -> &event::Url<'_> {
        Self::find(&self.shared, self.place).expect(THERE)
    }

    fn key(&self) -> impl Hash {
        self.part().web.to_owned()
    }
}

impl Part for Url {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn value(&self) -> Value {
        let part = match self.place {
            Place::Repo => "repo",
            Place::Discussion => "discussion",
            Place::Comment => "comment",
            Place::MovedTo => "movedTo",
        };
        self.shared.value_at(&[part, "url"])
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        let path = match self.place {
            Place::Repo => "repo.url",
            Place::Discussion => "discussion.url",
            Place::Comment => "comment.url",
            Place::MovedTo => "moved_to.url",
        };
        (path, None)
    }
}

part!(Url {
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
});

/// A user or an organisation. The Hub sends the id, and never a login.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct Owner {
    shared: Shared,
    place: Place,
}

impl Owner {
    fn of(shared: &Shared, place: Place) -> Option<Self> {
        Self::find(shared, place)?;
        Some(Self {
            shared: shared.clone(),
            place,
        })
    }

    fn find(shared: &Shared, place: Place) -> Option<&event::Owner<'_>> {
        let event = shared.event();
        match place {
            Place::Repo => event.repo.as_ref()?.owner.as_ref(),
            Place::Discussion => event.discussion.as_ref()?.author.as_ref(),
            Place::Comment => event.comment.as_ref()?.author.as_ref(),
            Place::MovedTo => event.moved_to.as_ref()?.owner.as_ref(),
        }
    }

    fn part(&self) -> &event::Owner<'_> {
        Self::find(&self.shared, self.place).expect(THERE)
    }

    #[expect(clippy::unused_self, reason = "as the other parts have it")]
    fn key(&self) -> impl Hash {
        // An id of another type than string may be written in several ways, so it cannot count.
        0
    }
}

impl Part for Owner {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn value(&self) -> Value {
        let keys: &[&[&str]] = match self.place {
            Place::Repo => &[&["repo", "owner"], &["repo", "author"]],
            Place::Discussion => &[&["discussion", "author"]],
            Place::Comment => &[&["comment", "author"]],
            Place::MovedTo => &[&["movedTo", "owner"]],
        };
        keys.iter()
            .map(|keys| self.shared.value_at(keys))
            .find(|value| value.get("id").is_some_and(|id| !id.is_null()))
            // Version 2 gives the id alone.
            .unwrap_or_else(|| json!({"id": self.part().id}))
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        let path = match self.place {
            Place::Repo => "repo.owner",
            Place::Discussion => "discussion.author",
            Place::Comment => "comment.author",
            Place::MovedTo => "moved_to.owner",
        };
        (path, None)
    }
}

part!(Owner {
    /// The id.
    #[getter]
    fn id(&self) -> &str {
        self.part().id
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Owner(id={})", quoted(py, self.part().id)?))
    }
});

/// A discussion or a pull request.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct Discussion {
    shared: Shared,
    url: OnceLock<Py<Url>>,
    author: OnceLock<Py<Owner>>,
    changes: OnceLock<Py<Changes>>,
}

impl Discussion {
    pub(super) fn of(shared: &Shared) -> Option<Self> {
        shared.event().discussion.as_ref()?;
        Some(Self {
            shared: shared.clone(),
            url: OnceLock::new(),
            author: OnceLock::new(),
            changes: OnceLock::new(),
        })
    }

    fn part(&self) -> &event::Discussion<'_> {
        self.shared.event().discussion.as_ref().expect(THERE)
    }

    fn key(&self) -> impl Hash {
        self.part().num
    }
}

impl Part for Discussion {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn value(&self) -> Value {
        self.shared.value_at(&["discussion"])
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        ("discussion", None)
    }
}

part!(Discussion {
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
        view(py, &self.url, || Url::of(&self.shared, Place::Discussion))
    }

    /// The status: `open`, `closed`, `merged`, `draft`, or one that the Hub adds later.
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        word(py, self.part().status)
    }

    /// The user who opened it, and not the user who caused the event.
    #[getter]
    fn author(&self, py: Python<'_>) -> PyResult<Option<Py<Owner>>> {
        view(py, &self.author, || Owner::of(&self.shared, Place::Discussion))
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
        view(py, &self.changes, || Changes::of(&self.shared))
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
});

/// The target branch and merge commit of a pull request.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct Changes {
    shared: Shared,
}

impl Changes {
    fn of(shared: &Shared) -> Option<Self> {
        shared.event().discussion.as_ref()?.changes.as_ref()?;
        Some(Self {
            shared: shared.clone(),
        })
    }

    fn part(&self) -> &event::Changes<'_> {
        let discussion = self.shared.event().discussion.as_ref();
        discussion
            .and_then(|discussion| discussion.changes.as_ref())
            .expect(THERE)
    }

    fn key(&self) -> impl Hash {
        self.part().base.map(str::to_owned)
    }
}

impl Part for Changes {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn value(&self) -> Value {
        self.shared.value_at(&["discussion", "changes"])
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        ("discussion.changes", None)
    }
}

part!(Changes {
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
});

/// A comment, or the first post of a discussion.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct Comment {
    shared: Shared,
    author: OnceLock<Py<Owner>>,
    url: OnceLock<Py<Url>>,
}

impl Comment {
    pub(super) fn of(shared: &Shared) -> Option<Self> {
        shared.event().comment.as_ref()?;
        Some(Self {
            shared: shared.clone(),
            author: OnceLock::new(),
            url: OnceLock::new(),
        })
    }

    fn part(&self) -> &event::Comment<'_> {
        self.shared.event().comment.as_ref().expect(THERE)
    }

    fn key(&self) -> impl Hash {
        self.part().content.to_owned()
    }
}

impl Part for Comment {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn value(&self) -> Value {
        self.shared.value_at(&["comment"])
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        ("comment", None)
    }
}

part!(Comment {
    /// The id.
    #[getter]
    fn id(&self) -> Option<&str> {
        self.part().id
    }

    /// The user who wrote it.
    #[getter]
    fn author(&self, py: Python<'_>) -> PyResult<Option<Py<Owner>>> {
        view(py, &self.author, || Owner::of(&self.shared, Place::Comment))
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
        view(py, &self.url, || Url::of(&self.shared, Place::Comment))
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
});

/// The webhook that sent a delivery.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct Webhook {
    shared: Shared,
}

impl Webhook {
    pub(super) fn of(shared: &Shared) -> Option<Self> {
        shared.event().webhook.as_ref()?;
        Some(Self {
            shared: shared.clone(),
        })
    }

    fn part(&self) -> &event::Webhook<'_> {
        self.shared.event().webhook.as_ref().expect(THERE)
    }

    fn key(&self) -> impl Hash {
        self.part().version
    }
}

impl Part for Webhook {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn value(&self) -> Value {
        self.shared.value_at(&["webhook"])
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        ("webhook", None)
    }
}

part!(Webhook {
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
});

/// The new name and owner of a moved repository.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct MovedTo {
    shared: Shared,
    owner: OnceLock<Py<Owner>>,
}

impl MovedTo {
    pub(super) fn of(shared: &Shared) -> Option<Self> {
        shared.event().moved_to.as_ref()?;
        Some(Self {
            shared: shared.clone(),
            owner: OnceLock::new(),
        })
    }

    fn part(&self) -> &event::MovedTo<'_> {
        self.shared.event().moved_to.as_ref().expect(THERE)
    }

    fn key(&self) -> impl Hash {
        self.part().name.to_owned()
    }
}

impl Part for MovedTo {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn value(&self) -> Value {
        match self.shared.value_at(&["movedTo"]) {
            // Version 2 gives the name alone.
            Value::String(name) => json!({ "name": name }),
            value => value,
        }
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        ("moved_to", None)
    }
}

part!(MovedTo {
    /// The new name, `owner/name`.
    #[getter]
    fn name(&self) -> &str {
        self.part().name
    }

    /// The new owner.
    #[getter]
    fn owner(&self, py: Python<'_>) -> PyResult<Option<Py<Owner>>> {
        view(py, &self.owner, || Owner::of(&self.shared, Place::MovedTo))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("MovedTo(name={})", quoted(py, self.part().name)?))
    }
});

/// A ref that a push created, moved or deleted.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct UpdatedRef {
    shared: Shared,
    index: usize,
}

impl UpdatedRef {
    pub(super) fn all_of(shared: &Shared) -> impl Iterator<Item = Self> {
        (0..shared.event().updated_refs.len()).map(|index| Self {
            shared: shared.clone(),
            index,
        })
    }

    fn part(&self) -> &event::UpdatedRef<'_> {
        &self.shared.event().updated_refs[self.index]
    }

    fn key(&self) -> impl Hash {
        let part = self.part();
        (part.r#ref.to_owned(), part.new_sha.map(str::to_owned))
    }
}

impl Part for UpdatedRef {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn value(&self) -> Value {
        match self.shared.value_at(&["updatedRefs"]) {
            // Elements that are no refs were left out of the tuple.
            Value::Array(refs) => refs
                .into_iter()
                .filter(|value| value.get("ref").is_some_and(Value::is_string))
                .nth(self.index)
                .unwrap_or_default(),
            _ => Value::Null,
        }
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        ("updated_refs", Some(self.index))
    }
}

part!(UpdatedRef {
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
});
