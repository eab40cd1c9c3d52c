//! The files of a bucket: a sequence that makes its elements lazily.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::{PyIndexError, PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PySlice, PyString, PyTuple};
use self_cell::self_cell;
use serde_json::Value;

use super::convert::{compared, quoted, reentrant, word};
use super::event::HubEvent;
use super::shared::EventCell;
use super::view::{View, keep, view_methods};
use crate::event;
use crate::read::value_of;

type Files<'a> = Vec<(&'a str, event::UpdatedFile<'a>)>;

self_cell!(
    /// The files of a body, each with its JSON text.
    struct List {
        owner: EventCell,
        #[covariant]
        dependent: Files,
    }
);

/// A changed file of a bucket.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct UpdatedFile {
    list: Arc<List>,
    index: usize,
}

impl UpdatedFile {
    fn part(&self) -> &event::UpdatedFile<'_> {
        &self.list.borrow_dependent()[self.index].1
    }

    fn hash_key(&self) -> impl Hash {
        let part = self.part();
        (&part.path, &part.xet_hash)
    }
}

impl View for UpdatedFile {
    fn shared(&self) -> &EventCell {
        self.list.borrow_owner()
    }

    fn value(&self) -> Value {
        value_of(self.list.borrow_dependent()[self.index].0)
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        ("updated_files", Some(self.index))
    }
}

view_methods!(UpdatedFile {
    /// The path in the bucket.
    #[getter]
    fn path(&self) -> &str {
        &self.part().path
    }

    /// The action: `add`, also for an overwritten file, `delete`, or one that the Hub adds later.
    #[getter]
    fn action<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        word(py, &self.part().action)
    }

    /// The hash of the content; None unless the action is `add`.
    #[getter]
    fn xet_hash(&self) -> Option<&str> {
        self.part().xet_hash.as_deref()
    }

    /// The size in bytes; None unless the action is `add`.
    #[getter]
    fn size(&self) -> Option<u64> {
        self.part().size
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let part = self.part();
        let (path, action) = (quoted(py, &part.path)?, quoted(py, &part.action)?);
        Ok(format!("UpdatedFile(path={path}, action={action})"))
    }
});

/// The changed files of a bucket: a sequence of `UpdatedFile`, made lazily.
///
/// Invalid elements are left out. `to_dict()` of the event has them.
#[pyclass(frozen, sequence, module = "hubhooks")]
pub(crate) struct UpdatedFiles {
    list: Arc<List>,
    /// The object of each file, once it is made.
    objects: Vec<OnceLock<Py<UpdatedFile>>>,
}

impl UpdatedFiles {
    pub(super) fn of(shared: &EventCell) -> Self {
        let list = List::new(shared.clone(), |shared| {
            let files = shared.event().updated_files.iter();
            files.flat_map(|files| files.iter()).collect()
        });
        let files = list.borrow_dependent().iter();
        Self {
            objects: files.map(|_| OnceLock::new()).collect(),
            list: Arc::new(list),
        }
    }

    fn get(&self, py: Python<'_>, index: usize) -> PyResult<Option<Py<UpdatedFile>>> {
        let Some(object) = self.objects.get(index) else {
            return Ok(None);
        };
        if let Some(file) = object.get() {
            return Ok(Some(file.clone_ref(py)));
        }
        let list = Arc::clone(&self.list);
        let file = Py::new(py, UpdatedFile { list, index })?;
        Ok(Some(keep(object, file).clone_ref(py)))
    }

    /// All files as Python objects.
    fn objects(&self, py: Python<'_>) -> impl Iterator<Item = PyResult<Py<UpdatedFile>>> {
        (0..self.objects.len()).filter_map(move |index| self.get(py, index).transpose())
    }

    fn values(&self) -> Vec<Value> {
        let files = self.list.borrow_dependent().iter();
        files.map(|(json, _)| value_of(json)).collect()
    }
}

#[pymethods]
impl UpdatedFiles {
    fn __len__(&self) -> usize {
        self.objects.len()
    }

    /// Implement `files[index]`, with an index or a slice of plain integers.
    fn _get_item<'py>(&self, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = index.py();
        let Ok(slice) = index.cast::<PySlice>() else {
            let index = clamped(index)?;
            let from_start = if index < 0 {
                index.checked_add_unsigned(self.objects.len())
            } else {
                Some(index)
            };
            let file = match from_start.and_then(|index| usize::try_from(index).ok()) {
                Some(index) => self.get(py, index)?,
                None => None,
            };
            return match file {
                Some(file) => Ok(file.into_bound(py).into_any()),
                None => Err(PyIndexError::new_err("there is no file at this index")),
            };
        };
        let length = isize::try_from(self.objects.len())?;
        let span = slice.indices(length)?;
        let mut files = Vec::with_capacity(span.slicelength);
        let mut at = span.start;
        for _ in 0..span.slicelength {
            files.extend(self.get(py, usize::try_from(at)?)?);
            at = at.wrapping_add(span.step);
        }
        Ok(PyTuple::new(py, files)?.into_any())
    }

    fn __iter__(slf: Py<Self>) -> FileIterator {
        FileIterator {
            files: slf,
            next: AtomicUsize::new(0),
        }
    }

    fn __reversed__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mut files = self.objects(py).collect::<PyResult<Vec<_>>>()?;
        files.reverse();
        Ok(PyTuple::new(py, files)?.try_iter()?.into_any())
    }

    fn __contains__(&self, value: &Bound<'_, PyAny>) -> bool {
        value
            .cast::<UpdatedFile>()
            .is_ok_and(|file| self.values().contains(&View::value(file.get())))
    }

    #[classattr]
    fn index(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        reentrant(py, "index_of_file")
    }

    /// Implement `index`, with plain integers.
    #[pyo3(signature = (value, start, stop))]
    fn _index(
        &self,
        value: &Bound<'_, PyAny>,
        start: Option<&Bound<'_, PyAny>>,
        stop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<usize> {
        let length = isize::try_from(self.objects.len())?;
        let bound = |given: Option<&Bound<'_, PyAny>>, absent| {
            let index = given.map_or(Ok(absent), clamped)?;
            let from_start = if index < 0 {
                index.saturating_add(length)
            } else {
                index
            };
            Ok::<_, PyErr>(from_start.clamp(0, length))
        };
        let (start, stop) = (bound(start, 0)?, bound(stop, length)?);
        let wanted = value
            .cast::<UpdatedFile>()
            .ok()
            .map(|file| View::value(file.get()));
        self.values()
            .iter()
            .enumerate()
            .skip(usize::try_from(start)?)
            .take(usize::try_from((stop - start).max(0))?)
            .find_map(|(index, value)| (Some(value) == wanted.as_ref()).then_some(index))
            .ok_or_else(|| PyValueError::new_err("the file is not among these"))
    }

    /// Count the files equal to this one.
    #[pyo3(signature = (value, /))]
    fn count(&self, value: &Bound<'_, PyAny>) -> usize {
        let Ok(file) = value.cast::<UpdatedFile>() else {
            return 0;
        };
        let wanted = View::value(file.get());
        self.values()
            .iter()
            .filter(|value| **value == wanted)
            .count()
    }

    fn __eq__<'py>(&self, other: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
        compared(other, |other| {
            std::ptr::eq(self, other) || self.values() == other.values()
        })
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.objects.len().hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        match self.objects.len() {
            1 => "<UpdatedFiles: 1 file>".to_owned(),
            count => format!("<UpdatedFiles: {count} files>"),
        }
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let event = HubEvent::wrap(py, self.list.borrow_owner().clone())?;
        let restore = py.import("hubhooks._core")?.getattr("_unpickle_view")?;
        (restore, (event, "updated_files", None::<usize>)).into_pyobject(py)
    }

    fn __copy__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }
    fn __deepcopy__<'py>(slf: Bound<'py, Self>, _memo: Bound<'py, PyAny>) -> Bound<'py, Self> {
        slf
    }
}

/// Clamp an index: no list is long enough for a larger one.
fn clamped(index: &Bound<'_, PyAny>) -> PyResult<isize> {
    match index.extract::<isize>() {
        Err(error) if error.is_instance_of::<PyOverflowError>(index.py()) => {
            Ok(if index.lt(0)? { isize::MIN } else { isize::MAX })
        }
        index => index,
    }
}

/// Iterates over the files.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct FileIterator {
    files: Py<UpdatedFiles>,
    next: AtomicUsize,
}

#[pymethods]
impl FileIterator {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<UpdatedFile>>> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.files.get().get(py, next)
    }
}
