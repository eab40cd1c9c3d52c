//! The files of a bucket: a sequence that makes its elements when they are read.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::{PyIndexError, PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PySlice, PyString, PyTuple};
use serde_json::Value;

use super::convert::{quoted, to_python, word};
use super::event::{HubEvent, keep};
use super::parts::{Part, THERE, part};
use super::shared::Shared;
use crate::event;
use crate::read::value_of;
use crate::text::range_in;

/// A file that changed in a bucket.
#[pyclass(frozen, module = "hubhooks")]
pub(crate) struct UpdatedFile {
    shared: Shared,
    index: usize,
    json: Range<usize>,
    path: String,
    action: String,
    xet_hash: Option<String>,
    size: Option<u64>,
}

impl UpdatedFile {
    fn key(&self) -> impl Hash {
        (&self.path, &self.xet_hash)
    }
}

impl Part for UpdatedFile {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn value(&self) -> Value {
        value_of(&self.shared.event().text()[self.json.clone()])
    }

    fn path(&self) -> (&'static str, Option<usize>) {
        ("updated_files", Some(self.index))
    }
}

part!(UpdatedFile {
    /// The path in the bucket.
    #[getter]
    fn path(&self) -> &str {
        &self.path
    }

    /// `add` (also when a file was overwritten), `delete`, or a word the Hub adds later.
    #[getter]
    fn action<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        word(py, &self.action)
    }

    /// The hash of the contents; only with `add`.
    #[getter]
    fn xet_hash(&self) -> Option<&str> {
        self.xet_hash.as_deref()
    }

    /// The size in bytes; only with `add`.
    #[getter]
    fn size(&self) -> Option<u64> {
        self.size
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (path, action) = (quoted(py, &self.path)?, quoted(py, &self.action)?);
        Ok(format!("UpdatedFile(path={path}, action={action})"))
    }
});

/// The files that changed in a bucket: a sequence of `UpdatedFile`, each made when it is read.
///
/// Elements of the body that are no files are left out; `to_dict()` of the event has them.
#[pyclass(frozen, sequence, module = "hubhooks")]
pub(crate) struct UpdatedFiles {
    shared: Shared,
    files: Vec<Slot>,
}

/// A file's place in the body, and its object once there is one.
struct Slot {
    json: Range<usize>,
    file: OnceLock<Py<UpdatedFile>>,
}

impl UpdatedFiles {
    pub(super) fn of(shared: &Shared) -> Self {
        let event = shared.event();
        let slot = |(json, _)| Slot {
            json: range_in(event.text(), json),
            file: OnceLock::new(),
        };
        let files = event
            .updated_files
            .iter()
            .flat_map(event::UpdatedFiles::iter);
        Self {
            shared: shared.clone(),
            files: files.map(slot).collect(),
        }
    }

    fn get(&self, py: Python<'_>, index: usize) -> PyResult<Option<Py<UpdatedFile>>> {
        let Some(slot) = self.files.get(index) else {
            return Ok(None);
        };
        if let Some(file) = slot.file.get() {
            return Ok(Some(file.clone_ref(py)));
        }
        let event = self.shared.event();
        let json = &event.text()[slot.json.clone()];
        let files = event.updated_files.as_ref();
        let file = files.and_then(|files| files.file(json)).expect(THERE);
        let file = Py::new(
            py,
            UpdatedFile {
                shared: self.shared.clone(),
                index,
                json: slot.json.clone(),
                path: file.path.into_owned(),
                action: file.action.into_owned(),
                xet_hash: file.xet_hash.map(Cow::into_owned),
                size: file.size,
            },
        )?;
        let file = keep(&slot.file, file);
        Ok(Some(file.clone_ref(py)))
    }

    /// All files as Python objects.
    fn objects(&self, py: Python<'_>) -> impl Iterator<Item = PyResult<Py<UpdatedFile>>> {
        (0..self.files.len()).filter_map(move |index| self.get(py, index).transpose())
    }

    fn values(&self) -> Vec<Value> {
        let text = self.shared.event().text();
        let value = |slot: &Slot| value_of(&text[slot.json.clone()]);
        self.files.iter().map(value).collect()
    }
}

#[pymethods]
impl UpdatedFiles {
    fn __len__(&self) -> usize {
        self.files.len()
    }

    fn __getitem__<'py>(&self, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = index.py();
        let Ok(slice) = index.cast::<PySlice>() else {
            let index = clamped(index)?;
            let from_start = if index < 0 {
                index.checked_add_unsigned(self.files.len())
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
        let length = isize::try_from(self.files.len())?;
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
            .is_ok_and(|file| self.values().contains(&Part::value(file.get())))
    }

    /// Give the index of the first file equal to this one.
    ///
    /// Raises:
    ///     ValueError: there is none.
    #[pyo3(signature = (value, start = None, stop = None, /))]
    fn index(
        &self,
        value: &Bound<'_, PyAny>,
        start: Option<&Bound<'_, PyAny>>,
        stop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<usize> {
        let length = isize::try_from(self.files.len())?;
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
            .map(|file| Part::value(file.get()));
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
        let wanted = Part::value(file.get());
        self.values()
            .iter()
            .filter(|value| **value == wanted)
            .count()
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| {
            std::ptr::eq(self, other.get()) || self.values() == other.get().values()
        })
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.files.len().hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        format!("<UpdatedFiles: {} files>", self.files.len())
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let event = HubEvent::wrap(py, self.shared.clone())?;
        let restore = py.import("hubhooks._core")?.getattr("_restore_part")?;
        (restore, (event, "updated_files", None::<usize>)).into_pyobject(py)
    }

    fn __copy__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }
    fn __deepcopy__<'py>(slf: Bound<'py, Self>, _memo: Bound<'py, PyAny>) -> Bound<'py, Self> {
        slf
    }
}

/// An index, as far as one can be: no list reaches to where a larger one would point.
fn clamped(index: &Bound<'_, PyAny>) -> PyResult<isize> {
    match index.extract::<isize>() {
        Err(error) if error.is_instance_of::<PyOverflowError>(index.py()) => {
            Ok(if index.lt(0)? { isize::MIN } else { isize::MAX })
        }
        index => index,
    }
}

/// Walks over the files.
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
