//! Matching for Python.

use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::convert::word;
use super::errors::config_error;
use super::event::{CommentEvent, ConfigEvent, ContentEvent, DiscussionEvent, HubEvent, RepoEvent};
use crate::event::Class;
use crate::filter::{self, Criteria, ScopeOrClass};
use crate::scope;

/// A filter for events. All given criteria must match; of a list, one item must match.
///
/// `repo`, `ref` and `path` take patterns: `*` is any text without `/`, `**` any number of segments,
/// `?` one byte, `[ab]` one of a set, `{a,b}` either. Other values are compared exactly, and can be
/// values that the Hub adds later.
///
/// Args:
///     scopes: scopes (`repo.content`), a scope with all scopes below it (`repo.*`), or event
///         classes; without them, every event matches.
///     action: `create`, `update`, `delete` or `move`.
///     repo_type: `model`, `dataset`, `space`, `bucket` or `kernel`.
///     repo: patterns for the full name, `owner/name`; on a move, for the old name.
///     owner: the namespace of the repository, or its owner's id.
///     ref: patterns for an updated ref; one that does not begin with `refs/` is a branch.
///     path: patterns for an updated file of a bucket; it also matches if the Hub left files out.
///     pull_request: True for pull requests, and for pushes to a ref of one; False for the others.
///     status: `open`, `closed`, `merged` or `draft`.
///     mention: a login that the comment mentions.
///     author: the id of the author of the comment or of the new discussion.
///     private: True for private repositories, False for the others.
///
/// Raises:
///     ConfigError: a pattern is invalid, or no event can match all criteria together.
#[pyclass(frozen, eq, hash, module = "hubhooks")]
#[derive(PartialEq, Eq)]
pub(crate) struct Filter(OnceLock<filter::Filter>);

impl Filter {
    fn inner(&self) -> PyResult<&filter::Filter> {
        let uninitialized = || PyTypeError::new_err("`Filter.__init__` was not called");
        self.0.get().ok_or_else(uninitialized)
    }
}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.get().hash(state);
    }
}

#[pymethods]
impl Filter {
    /// `__init__`, which is written in Python, reads the criteria, because they can be iterables.
    #[new]
    #[pyo3(signature = (
        *scopes, action = None, repo_type = None, repo = None, owner = None, r#ref = None, path = None,
        pull_request = None, status = None, mention = None, author = None, private = None,
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "the criteria are keyword arguments in Python"
    )]
    fn new(
        scopes: &Bound<'_, PyTuple>,
        action: Option<&Bound<'_, PyAny>>,
        repo_type: Option<&Bound<'_, PyAny>>,
        repo: Option<&Bound<'_, PyAny>>,
        owner: Option<&Bound<'_, PyAny>>,
        r#ref: Option<&Bound<'_, PyAny>>,
        path: Option<&Bound<'_, PyAny>>,
        pull_request: Option<&Bound<'_, PyAny>>,
        status: Option<&Bound<'_, PyAny>>,
        mention: Option<&Bound<'_, PyAny>>,
        author: Option<&Bound<'_, PyAny>>,
        private: Option<&Bound<'_, PyAny>>,
    ) -> Self {
        let _ = (scopes, action, repo_type, repo, owner, r#ref, path);
        let _ = (pull_request, status, mention, author, private);
        Self(OnceLock::new())
    }

    /// Set the criteria, with lists or tuples in place of iterables.
    #[pyo3(signature = (
        *scopes, action = None, repo_type = None, repo = None, owner = None, r#ref = None, path = None,
        pull_request = None, status = None, mention = None, author = None, private = None,
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "the criteria are keyword arguments in Python"
    )]
    fn _make(
        &self,
        scopes: &Bound<'_, PyTuple>,
        action: Option<&Bound<'_, PyAny>>,
        repo_type: Option<&Bound<'_, PyAny>>,
        repo: Option<&Bound<'_, PyAny>>,
        owner: Option<&Bound<'_, PyAny>>,
        r#ref: Option<&Bound<'_, PyAny>>,
        path: Option<&Bound<'_, PyAny>>,
        pull_request: Option<&Bound<'_, PyAny>>,
        status: Option<&Bound<'_, PyAny>>,
        mention: Option<&Bound<'_, PyAny>>,
        author: Option<&Bound<'_, PyAny>>,
        private: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let made = filter::Filter::new(Criteria {
            scopes: scopes
                .iter()
                .map(|scope| scope_or_class(&scope))
                .collect::<PyResult<_>>()?,
            action: words("action", action)?,
            repo_type: words("repo_type", repo_type)?,
            repo: words("repo", repo)?,
            owner: words("owner", owner)?,
            r#ref: words("ref", r#ref)?,
            path: words("path", path)?,
            pull_request: flag("pull_request", pull_request)?,
            status: words("status", status)?,
            mention: words("mention", mention)?,
            author: words("author", author)?,
            private: flag("private", private)?,
        })?;
        self.0
            .set(made)
            .map_err(|_| PyTypeError::new_err("a filter cannot be changed"))
    }

    /// The scopes and event classes, as in the call; empty if every scope matches.
    #[getter]
    fn scopes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let classes = classes(py);
        let scopes = self.inner()?.criteria().scopes.iter();
        let items = scopes.filter_map(|item| match item {
            ScopeOrClass::Scope(name) => Some(PyString::new(py, name).into_any()),
            ScopeOrClass::Class(class) => classes
                .iter()
                .find(|(_, known)| known == class)
                .map(|(class, _)| class.clone().into_any()),
        });
        PyTuple::new(py, items.collect::<Vec<_>>())
    }

    /// A new dict of the given criteria: a tuple of strings, or a bool, under the name of each.
    #[getter]
    fn criteria<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let criteria = self.inner()?.criteria();
        let given = PyDict::new(py);
        for (name, words) in word_criteria(criteria) {
            given.set_item(name, PyTuple::new(py, words)?)?;
        }
        for (name, flag) in flag_criteria(criteria) {
            given.set_item(name, flag)?;
        }
        Ok(given)
    }

    /// Return True if the event matches.
    #[pyo3(signature = (event, /))]
    fn matches(&self, event: &Bound<'_, HubEvent>) -> PyResult<bool> {
        Ok(self.inner()?.matches(event.get().shared().event()))
    }

    /// Explain why the event matches or not: the rest of a sentence that begins with the handler, such
    /// as `matches`, or `does not match:` with all reasons.
    #[pyo3(signature = (event, /))]
    fn explain(&self, event: &Bound<'_, HubEvent>) -> PyResult<String> {
        Ok(self.inner()?.explain(event.get().shared().event()).text)
    }

    /// Return a sentence for each value that no documented event has, with the nearest documented
    /// value. The Hub can add values, so such a filter is valid.
    fn value_warnings(&self) -> PyResult<Vec<String>> {
        Ok(self.inner()?.value_warnings())
    }

    /// Return the classes of the documented events that can match, for each scope or class of the
    /// filter; an empty string stands for no scope. Undocumented scopes are left out.
    fn event_classes<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Vec<(String, Vec<Bound<'py, PyType>>)>> {
        let known = classes(py);
        let to_type = |class: &Class| known.iter().find(|(_, other)| other == class);
        Ok(self
            .inner()?
            .classes()
            .into_iter()
            .map(|(scope, given)| {
                let types = given.iter().filter_map(to_type);
                (
                    scope.map(ToString::to_string).unwrap_or_default(),
                    types.map(|(class, _)| class.clone()).collect(),
                )
            })
            .collect())
    }

    fn __repr__(&self) -> PyResult<String> {
        let criteria = self.inner()?.criteria();
        let mut given: Vec<String> = criteria.scopes.iter().map(python_name).collect();
        for (name, words) in word_criteria(criteria) {
            given.push(format!("{name}={words:?}"));
        }
        for (name, flag) in flag_criteria(criteria) {
            given.push(format!("{name}={}", if flag { "True" } else { "False" }));
        }
        Ok(format!("Filter({})", given.join(", ")))
    }
}

/// Return the indexes of the filters that match the event, in order.
#[pyfunction]
#[pyo3(signature = (event, filters, /))]
#[expect(
    clippy::needless_pass_by_value,
    reason = "PyO3 extracts only owned sequences"
)]
pub(crate) fn match_filters(
    event: &Bound<'_, HubEvent>,
    filters: Vec<PyRef<'_, Filter>>,
) -> PyResult<Vec<usize>> {
    let made = filters.iter().map(|filter| filter.inner());
    let made = made.collect::<PyResult<Vec<_>>>()?;
    Ok(filter::match_filters(event.get().shared().event(), made))
}

/// Apply the narrowing rule of the Hub: any action on an undocumented narrower scope is an `update`
/// of the nearest documented scope.
///
/// Source: https://huggingface.co/docs/hub/webhooks
#[pyfunction]
#[pyo3(signature = (scope, action, /))]
pub(crate) fn narrow<'py>(
    py: Python<'py>,
    scope: &str,
    action: &str,
) -> PyResult<Bound<'py, PyTuple>> {
    let (scope, action) = scope::narrow(scope, action);
    PyTuple::new(py, [word(py, scope), word(py, action)])
}

/// Return the documented scope nearest to a misspelt one; None if none is close.
#[pyfunction]
#[pyo3(signature = (scope, /))]
pub(crate) fn nearest_scope(scope: &str) -> Option<&'static str> {
    scope::nearest(scope)
}

/// The given criteria with words or patterns.
fn word_criteria(criteria: &Criteria) -> impl Iterator<Item = (&'static str, &[String])> {
    [
        ("action", &criteria.action),
        ("repo_type", &criteria.repo_type),
        ("repo", &criteria.repo),
        ("owner", &criteria.owner),
        ("ref", &criteria.r#ref),
        ("path", &criteria.path),
        ("status", &criteria.status),
        ("mention", &criteria.mention),
        ("author", &criteria.author),
    ]
    .into_iter()
    .filter_map(|(name, words)| Some((name, words.as_deref()?)))
}

/// The given criteria that are True or False.
fn flag_criteria(criteria: &Criteria) -> impl Iterator<Item = (&'static str, bool)> {
    [
        ("pull_request", criteria.pull_request),
        ("private", criteria.private),
    ]
    .into_iter()
    .filter_map(|(name, flag)| Some((name, flag?)))
}

/// The values of a criterion: a string or several.
fn words(criterion: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<String>>> {
    let Some(given) = given else {
        return Ok(None);
    };
    if let Ok(word) = given.cast::<PyString>() {
        return Ok(Some(vec![word.extract()?]));
    }
    let strings = "a string or strings";
    let Ok(items) = given.try_iter() else {
        return Err(unexpected(criterion, strings, given));
    };
    let words = items.map(|item| {
        let item = item?;
        match item.cast::<PyString>() {
            Ok(word) => word.extract(),
            Err(_) => Err(unexpected(criterion, strings, &item)),
        }
    });
    words.collect::<PyResult<_>>().map(Some)
}

/// The value of a criterion that is True or False.
fn flag(criterion: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<bool>> {
    given
        .map(|given| {
            given
                .extract()
                .map_err(|_| unexpected(criterion, "True or False", given))
        })
        .transpose()
}

/// Adds the name of the criterion, which PyO3 puts into a note that Python 3.10 does not have.
fn unexpected(criterion: &str, wanted: &str, found: &Bound<'_, PyAny>) -> PyErr {
    match found.get_type().name() {
        Ok(found) => {
            PyTypeError::new_err(format!("`{criterion}=`: expected {wanted}, found {found}"))
        }
        Err(error) => error,
    }
}

/// A scope or a class, as Python writes it.
fn python_name(item: &ScopeOrClass) -> String {
    match item {
        ScopeOrClass::Scope(name) => format!("{name:?}"),
        ScopeOrClass::Class(class) => class.name().to_owned(),
    }
}

/// The Python classes of events.
fn classes(py: Python<'_>) -> [(Bound<'_, PyType>, Class); 6] {
    [
        (py.get_type::<HubEvent>(), Class::Other),
        (py.get_type::<RepoEvent>(), Class::Repo),
        (py.get_type::<ContentEvent>(), Class::Content),
        (py.get_type::<ConfigEvent>(), Class::Config),
        (py.get_type::<DiscussionEvent>(), Class::Discussion),
        (py.get_type::<CommentEvent>(), Class::Comment),
    ]
}

/// A scope or a class, as Python names them.
fn scope_or_class(value: &Bound<'_, PyAny>) -> PyResult<ScopeOrClass> {
    let py = value.py();
    if let Ok(name) = value.cast::<PyString>() {
        return Ok(ScopeOrClass::Scope(name.extract()?));
    }
    let Ok(class) = value.cast::<PyType>() else {
        return Err(PyTypeError::new_err(format!(
            "expected a scope or an event class, found {}",
            value.get_type().name()?
        )));
    };
    match classes(py).iter().find(|(known, _)| known.is(class)) {
        Some((_, class)) => Ok(ScopeOrClass::Class(*class)),
        None => Err(config_error(&format!(
            "`{}` is no event class; expected `HubEvent` or one of its classes in `hubhooks`",
            class.name()?
        ))),
    }
}
