//! The event classes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};
use pyo3::{IntoPyObjectExt, PyTypeInfo};
use serde_json::Value;

use super::convert::{compared, payload_error, reentrant, to_python, word};
use super::files::UpdatedFiles;
use super::parts::{Comment, Discussion, MovedTo, Repo, UpdatedRef, Webhook};
use super::shared::EventCell;
use super::view::{cached, keep};
use crate::event::{Class, DOCUMENTED_KEYS};
use crate::text::excerpt;

/// The parsed body of a delivery, and the base of all event classes.
///
/// `from_json`, `from_dict` and `from_env` return the matching class: `CommentEvent`,
/// `DiscussionEvent`, `ContentEvent`, `ConfigEvent`, `RepoEvent`, or `HubEvent` for anything else.
/// Values and keys that the Hub adds later are accepted and kept.
///
/// Source: https://huggingface.co/docs/hub/webhooks
#[pyclass(frozen, subclass, module = "hubhooks")]
pub(crate) struct HubEvent {
    shared: EventCell,
    repo: OnceLock<Py<Repo>>,
    discussion: OnceLock<Py<Discussion>>,
    comment: OnceLock<Py<Comment>>,
    webhook: OnceLock<Py<Webhook>>,
    moved_to: OnceLock<Py<MovedTo>>,
    updated_refs: OnceLock<Py<PyTuple>>,
    updated_files: OnceLock<Py<UpdatedFiles>>,
}

/// An event about a repository itself: created, deleted, moved, or updated.
#[pyclass(frozen, extends = HubEvent, module = "hubhooks")]
pub(crate) struct RepoEvent;

/// A change of the content of a repository: commits, branches, tags, or files of a bucket.
#[pyclass(frozen, extends = HubEvent, module = "hubhooks")]
pub(crate) struct ContentEvent;

/// A change of the settings of a repository. `updated_config` has the new values.
#[pyclass(frozen, extends = HubEvent, module = "hubhooks")]
pub(crate) struct ConfigEvent;

/// An event about a discussion or pull request.
#[pyclass(frozen, subclass, extends = HubEvent, module = "hubhooks")]
pub(crate) struct DiscussionEvent;

/// An event with a comment: about the comment, or a new discussion with its first post.
#[pyclass(frozen, extends = DiscussionEvent, module = "hubhooks")]
pub(crate) struct CommentEvent;

impl HubEvent {
    pub(super) fn shared(&self) -> &EventCell {
        &self.shared
    }

    /// Parse a body into an object of the matching class.
    fn read(py: Python<'_>, body: PyBackedBytes) -> PyResult<Bound<'_, HubEvent>> {
        Self::wrap(py, EventCell::read(body)?)
    }

    /// An object of the matching class.
    pub(super) fn wrap(py: Python<'_>, shared: EventCell) -> PyResult<Bound<'_, HubEvent>> {
        let class = shared.event().class();
        let base = PyClassInitializer::from(HubEvent {
            shared,
            repo: OnceLock::new(),
            discussion: OnceLock::new(),
            comment: OnceLock::new(),
            webhook: OnceLock::new(),
            moved_to: OnceLock::new(),
            updated_refs: OnceLock::new(),
            updated_files: OnceLock::new(),
        });
        let object = match class {
            Class::Repo => Bound::new(py, base.add_subclass(RepoEvent))?.into_any(),
            Class::Content => Bound::new(py, base.add_subclass(ContentEvent))?.into_any(),
            Class::Config => Bound::new(py, base.add_subclass(ConfigEvent))?.into_any(),
            Class::Discussion => Bound::new(py, base.add_subclass(DiscussionEvent))?.into_any(),
            Class::Comment => Bound::new(
                py,
                base.add_subclass(DiscussionEvent)
                    .add_subclass(CommentEvent),
            )?
            .into_any(),
            Class::Other => Bound::new(py, base)?.into_any(),
        };
        Ok(object.cast_into::<HubEvent>()?)
    }
}

/// Check that a class method of a subclass returns that class.
fn instance_of<'py>(
    class: &Bound<'py, PyType>,
    event: Bound<'py, HubEvent>,
) -> PyResult<Bound<'py, HubEvent>> {
    let is_any = class.is(HubEvent::type_object(class.py()));
    if is_any || event.is_instance(class)? {
        return Ok(event);
    }
    Err(payload_error(format!(
        "expected the body of a `{}`, found that of a `{}`",
        class.name()?,
        event.get_type().name()?,
    )))
}

/// Register the encoders of FastAPI once the process has imported it, which can be after this
/// package. An endpoint can only return events that were parsed, so this is early enough.
fn register_encoders(py: Python<'_>) -> PyResult<()> {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    if IS_DONE.load(Ordering::Relaxed) {
        return Ok(());
    }
    let modules = MODULES.get_or_try_init(py, || {
        let modules = py.import("sys")?.getattr("modules")?;
        Ok::<_, PyErr>(modules.cast_into::<PyDict>()?.unbind())
    })?;
    let modules = modules.bind(py);
    // FastAPI imports `fastapi.routing` after its encoders.
    if modules.contains(intern!(py, "fastapi.routing"))? {
        py.import("hubhooks._encoders")?
            .call_method0("register_encoders")?;
        IS_DONE.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// The body as bytes.
fn body_bytes(body: &Bound<'_, PyAny>) -> PyResult<PyBackedBytes> {
    if let Ok(bytes) = body.extract::<PyBackedBytes>() {
        return Ok(bytes);
    }
    let Ok(text) = body.cast::<PyString>() else {
        return Err(PyTypeError::new_err(format!(
            "expected the body as bytes or str, found {}",
            body.get_type().name()?
        )));
    };
    match text.encode_utf8() {
        Ok(bytes) => Ok(bytes.into()),
        Err(_) => Err(payload_error(
            "expected text that UTF-8 can write, found lone surrogates",
        )),
    }
}

#[pymethods]
impl HubEvent {
    /// Parse the body of a delivery.
    ///
    /// The whole body is validated here. Afterwards no field of the event raises an error.
    ///
    /// Args:
    ///     body: the body as received, in UTF-8.
    ///
    /// Raises:
    ///     PayloadError: the body is not a Hub event, or not one of this class. The error has
    ///         `line`, `column` and `path`.
    #[classmethod]
    #[pyo3(signature = (body, /))]
    fn from_json<'py>(
        cls: &Bound<'py, PyType>,
        body: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, HubEvent>> {
        let event = instance_of(cls, Self::read(cls.py(), body_bytes(body)?)?)?;
        register_encoders(cls.py())?;
        Ok(event)
    }

    #[classattr]
    fn from_dict(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        reentrant(py, "from_dict")
    }

    #[classattr]
    fn from_env(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        reentrant(py, "from_env")
    }

    /// Return the body as a new dict, with all keys as the Hub sent them.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.shared.value())
    }

    /// Return the body as JSON text, with U+FFFD in place of lone surrogates.
    fn to_json<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        PyString::new(py, self.shared.event().text())
    }

    /// The action: `create`, `delete`, `update`, `move`, or one that the Hub adds later.
    #[getter]
    fn action<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        word(py, self.shared.event().action)
    }

    /// The scope: `repo.content`, `discussion.comment`, or one that the Hub adds later.
    #[getter]
    fn scope<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        word(py, self.shared.event().scope)
    }

    /// The scope and action that filters use. Any action on an undocumented narrower scope is an
    /// `update` of the nearest documented scope.
    #[getter]
    fn effective<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let (scope, action) = self.shared.event().effective();
        PyTuple::new(py, [word(py, scope), word(py, action)])
    }

    /// True if the Hub documents this scope with this action.
    #[getter]
    fn is_known(&self) -> bool {
        self.shared.event().is_known()
    }

    /// The repository; None if the body has no valid one.
    #[getter]
    fn repo(&self, py: Python<'_>) -> PyResult<Option<Py<Repo>>> {
        cached(py, &self.repo, || Repo::of(&self.shared, ()))
    }

    /// The discussion or pull request; None unless the scope begins with `discussion`.
    #[getter]
    fn discussion(&self, py: Python<'_>) -> PyResult<Option<Py<Discussion>>> {
        cached(py, &self.discussion, || Discussion::of(&self.shared, ()))
    }

    /// The comment, or the first post of a new discussion; else None.
    #[getter]
    fn comment(&self, py: Python<'_>) -> PyResult<Option<Py<Comment>>> {
        cached(py, &self.comment, || Comment::of(&self.shared, ()))
    }

    /// The webhook that sent the delivery; None if the body does not say it.
    #[getter]
    fn webhook(&self, py: Python<'_>) -> PyResult<Option<Py<Webhook>>> {
        cached(py, &self.webhook, || Webhook::of(&self.shared, ()))
    }

    /// The new name and owner of a moved repository. `repo.name` is the old name.
    #[getter]
    fn moved_to(&self, py: Python<'_>) -> PyResult<Option<Py<MovedTo>>> {
        cached(py, &self.moved_to, || MovedTo::of(&self.shared, ()))
    }

    /// The refs that a push created, moved or deleted; empty if the body has none.
    #[getter]
    fn updated_refs(&self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        if let Some(refs) = self.updated_refs.get() {
            return Ok(refs.clone_ref(py));
        }
        let refs = UpdatedRef::all_of(&self.shared)
            .map(|updated| Py::new(py, updated))
            .collect::<PyResult<Vec<_>>>()?;
        let refs = PyTuple::new(py, refs)?.unbind();
        Ok(keep(&self.updated_refs, refs).clone_ref(py))
    }

    /// The changed files of a bucket; empty if the body has none.
    #[getter]
    fn updated_files(&self, py: Python<'_>) -> PyResult<Py<UpdatedFiles>> {
        if let Some(files) = self.updated_files.get() {
            return Ok(files.clone_ref(py));
        }
        let files = Py::new(py, UpdatedFiles::of(&self.shared))?;
        Ok(keep(&self.updated_files, files).clone_ref(py))
    }

    /// True if the Hub left files out of `updated_files`, which it does after 10,000.
    #[getter]
    fn updated_files_truncated(&self) -> bool {
        self.shared.event().updated_files_truncated
    }

    /// A new dict of the changed settings; empty if the body names none. The Hub can add keys at any
    /// time.
    #[getter]
    fn updated_config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let config = match self.shared.value_at(&["updatedConfig"]) {
            Value::Object(config) => config,
            _ => serde_json::Map::new(),
        };
        Ok(to_python(py, &Value::Object(config))?.cast_into()?)
    }

    /// A new dict of the undocumented top-level keys of the body.
    #[getter]
    fn extra<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let mut value = self.shared.value();
        if let Value::Object(map) = &mut value {
            map.retain(|key, _| !DOCUMENTED_KEYS.contains(&key.as_str()));
        }
        Ok(to_python(py, &value)?.cast_into()?)
    }

    /// The exact bytes of the body.
    #[getter]
    fn raw<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.shared.raw().into_bound_py_any(py)
    }

    fn __eq__<'py>(&self, other: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
        compared(other, |other: &Self| {
            let other = &other.shared;
            self.shared.is(other)
                || self.shared.raw()[..] == other.raw()[..]
                || self.shared.value() == other.value()
        })
    }

    fn __hash__(&self) -> u64 {
        // Equal bodies have equal values of these fields, and most events differ in them.
        let event = self.shared.event();
        let mut hasher = DefaultHasher::new();
        (event.action, event.scope).hash(&mut hasher);
        if let Some(repo) = &event.repo {
            repo.name.hash(&mut hasher);
        }
        event
            .discussion
            .as_ref()
            .map(|discussion| discussion.num)
            .hash(&mut hasher);
        for updated in &event.updated_refs {
            updated.new_sha.hash(&mut hasher);
        }
        hasher.finish()
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let event = slf.get().shared.event();
        let repo = event.repo.as_ref();
        let repo = repo.map(|repo| format!(" of {} {}", excerpt(repo.r#type), excerpt(repo.name)));
        let discussion = event.discussion.as_ref();
        let discussion = discussion.map(|discussion| format!(" #{}", discussion.num));
        Ok(format!(
            "<{} {} {}{}{}>",
            slf.get_type().name()?,
            excerpt(event.scope),
            excerpt(event.action),
            repo.unwrap_or_default(),
            discussion.unwrap_or_default(),
        ))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let py = slf.py();
        let raw = slf.get().raw(py)?;
        (slf.get_type().getattr("from_json")?, (raw,)).into_pyobject(py)
    }

    fn __copy__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }
    fn __deepcopy__<'py>(slf: Bound<'py, Self>, _memo: Bound<'py, PyAny>) -> Bound<'py, Self> {
        slf
    }

    #[classmethod]
    fn __get_pydantic_core_schema__<'py>(
        cls: &Bound<'py, PyType>,
        source: &Bound<'py, PyAny>,
        handler: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = (source, handler);
        cls.py()
            .import("hubhooks._pydantic")?
            .call_method1("core_schema", (cls,))
    }
}

#[pymethods]
impl CommentEvent {
    /// True if the comment is the first post of a new discussion.
    #[getter]
    fn is_opening_post(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let event = slf.as_any().cast::<HubEvent>()?;
        Ok(event.get().shared.event().is_opening_post())
    }
}
