//! Conversions between JSON and Python.

use pyo3::PyClass;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString};
use serde_json::Value;

use crate::error::Error;
use crate::text::LONGEST_QUOTE;

/// Convert a JSON value to a `dict`, `list`, `str` and so on.
pub(super) fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(pythonize::pythonize(py, value)?)
}

/// A string for a `repr`; a long one is cut, with its length.
pub(super) fn quoted(py: Python<'_>, text: &str) -> PyResult<String> {
    let shown = |text: &str| Ok::<_, PyErr>(PyString::new(py, text).repr()?.to_string());
    match text.char_indices().nth(LONGEST_QUOTE) {
        None => shown(text),
        Some((end, _)) => Ok(format!(
            "{}... ({} bytes)",
            shown(&text[..end])?,
            text.len()
        )),
    }
}

/// A method that is written in Python, because it calls user code.
///
/// Rust must not call user code. At exit, the interpreter ends a daemon thread in Python code, and
/// the process aborts if Rust called that code.
pub(super) fn reentrant<'py>(py: Python<'py>, method: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("hubhooks._reentrant")?.getattr(method)
}

/// A `PayloadError` without a position.
pub(super) fn payload_error(what: impl Into<String>) -> PyErr {
    Error::without_position(what).into()
}

/// A Python string. The frequent words of the Hub are made only once.
pub(super) fn word<'py>(py: Python<'py>, text: &str) -> Bound<'py, PyString> {
    macro_rules! interned {
        ($($word:literal),* $(,)?) => {
            match text {
                $($word => intern!(py, $word).clone(),)*
                _ => PyString::new(py, text),
            }
        };
    }
    interned!(
        "create",
        "update",
        "delete",
        "move",
        "repo",
        "repo.content",
        "repo.config",
        "discussion",
        "discussion.comment",
        "model",
        "dataset",
        "space",
        "bucket",
        "open",
        "closed",
        "merged",
        "draft",
        "add",
    )
}

/// The result of `==`. For an object of another class it is `NotImplemented`, so that Python asks
/// that object, such as `unittest.mock.ANY`.
pub(super) fn compared<'py, T>(
    other: &Bound<'py, PyAny>,
    is_equal: impl FnOnce(&T) -> bool,
) -> Bound<'py, PyAny>
where
    T: PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
{
    let py = other.py();
    match other.cast::<T>() {
        Ok(other) => PyBool::new(py, is_equal(other.get())).to_owned().into_any(),
        Err(_) => py.NotImplemented().into_bound(py),
    }
}
