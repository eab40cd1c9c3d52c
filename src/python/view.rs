//! Views: small frozen Python objects that read their fields from a shared event.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyDict, PyTuple};
use serde_json::Value;

use super::convert::{compared, to_python};
use super::event::HubEvent;
use super::shared::EventCell;

/// A panic message that never shows: events do not change, and `of` checks that the part exists.
pub(super) const EXISTS: &str = "a view is made of an existing part";

/// The common interface of all views.
pub(super) trait View {
    fn shared(&self) -> &EventCell;

    /// The part as JSON.
    fn value(&self) -> Value;

    /// The path from the event to the part: attributes, and an index.
    fn path(&self) -> (&'static str, Option<usize>);
}

/// Define the Python methods of a view: its own, and those of all views.
macro_rules! view_methods {
    ($class:ident { $($methods:tt)* }) => {
        #[pymethods]
        impl $class {
            $($methods)*

            /// Return the part as a new dict, with all keys as the Hub sent them.
            fn to_dict<'py>(
                &self,
                py: Python<'py>,
            ) -> PyResult<Bound<'py, pyo3::types::PyDict>> {
                $crate::python::view::to_dict(self, py)
            }

            fn __eq__<'py>(&self, other: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
                $crate::python::view::equals(self, other)
            }

            fn __hash__(&self) -> u64 {
                $crate::python::view::hash(self.hash_key())
            }

            fn __reduce__<'py>(
                slf: &Bound<'py, Self>,
            ) -> PyResult<Bound<'py, pyo3::types::PyTuple>> {
                $crate::python::view::reduce(slf)
            }

            fn __copy__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
                slf
            }

            fn __deepcopy__<'py>(
                slf: Bound<'py, Self>,
                _memo: Bound<'py, PyAny>,
            ) -> Bound<'py, Self> {
                slf
            }
        }
    };
}
pub(super) use view_methods;

/// Define a view: its class, the access to its part, and its Python methods.
///
/// `Repo at () { url: Url }` defines a class `Repo` of the part `event::Repo`. `()` is the type of
/// the position of the part, such as an index. `url` is a view that is made at the first access.
///
/// * `find` borrows the part from an event.
/// * `hash` returns fields that are equal in equal parts.
/// * `value` returns the JSON of the part.
/// * `path` returns the attributes from the event to the part.
///
/// Methods follow.
macro_rules! view {
    (
        $(#[$doc:meta])*
        $class:ident at $At:ty { $($field:ident: $View:ident),* }
        find |$event:ident, $find_at:ident| $find:expr;
        hash |$hash_part:ident| $hash:expr;
        value |$shared:ident, $value_at:ident, $value_part:ident| $value:expr;
        path |$path_at:ident| $path:expr;
        $($methods:tt)*
    ) => {
        $(#[$doc])*
        #[pyclass(frozen, module = "hubhooks")]
        pub(crate) struct $class {
            shared: $crate::python::shared::EventCell,
            at: $At,
            $($field: std::sync::OnceLock<Py<$View>>,)*
        }

        impl $class {
            /// Make a view; None if the event does not have the part.
            pub(super) fn of(shared: &$crate::python::shared::EventCell, at: $At) -> Option<Self> {
                Self::find(shared.event(), at)?;
                Some(Self {
                    shared: shared.clone(),
                    at,
                    $($field: std::sync::OnceLock::new(),)*
                })
            }

            fn find<'e>($event: &'e $crate::event::Event<'e>, $find_at: $At) -> Option<&'e event::$class<'e>> {
                $find
            }

            fn part(&self) -> &event::$class<'_> {
                Self::find(self.shared.event(), self.at).expect($crate::python::view::EXISTS)
            }

            fn hash_key(&self) -> impl std::hash::Hash + '_ {
                let $hash_part = self.part();
                $hash
            }
        }

        impl $crate::python::view::View for $class {
            fn shared(&self) -> &$crate::python::shared::EventCell {
                &self.shared
            }

            fn value(&self) -> serde_json::Value {
                let ($shared, $value_at, $value_part) = (&self.shared, self.at, self.part());
                $value
            }

            fn path(&self) -> (&'static str, Option<usize>) {
                let $path_at = self.at;
                $path
            }
        }

        $crate::python::view::view_methods!($class { $($methods)* });
    };
}
pub(super) use view;

pub(super) fn to_dict<'py>(view: &impl View, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
    Ok(to_python(py, &view.value())?.cast_into()?)
}

pub(super) fn equals<'py, T>(view: &T, other: &Bound<'py, PyAny>) -> Bound<'py, PyAny>
where
    T: View + PyClass<Frozen = True> + Sync,
{
    compared(other, |other: &T| {
        std::ptr::eq(view, other) || view.value() == other.value()
    })
}

pub(super) fn hash(key: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Pickle a view as its event and the path to the part.
pub(super) fn reduce<'py, T>(slf: &Bound<'py, T>) -> PyResult<Bound<'py, PyTuple>>
where
    T: View + PyClass<Frozen = True> + Sync,
{
    let py = slf.py();
    let (attributes, index) = slf.get().path();
    let event = HubEvent::wrap(py, slf.get().shared().clone())?;
    let restore = py.import("hubhooks._core")?.getattr("_unpickle_view")?;
    (restore, (event, attributes, index)).into_pyobject(py)
}

/// Return the part of an unpickled event.
#[pyfunction]
#[pyo3(name = "_unpickle_view")]
pub(crate) fn unpickle_view<'py>(
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

/// A part of an event. The object is made at the first access, and is the same afterwards.
pub(super) fn cached<T: PyClass + Into<PyClassInitializer<T>>>(
    py: Python<'_>,
    slot: &OnceLock<Py<T>>,
    make: impl FnOnce() -> Option<T>,
) -> PyResult<Option<Py<T>>> {
    if slot.get().is_none()
        && let Some(part) = make()
    {
        keep(slot, Py::new(py, part)?);
    }
    Ok(slot.get().map(|part| part.clone_ref(py)))
}

/// Store an object, unless another thread was faster.
///
/// PyO3's `PyOnceLock` lets other threads run while it fills, which costs more than making a part.
/// Here the object exists already, so no thread waits.
pub(super) fn keep<T>(slot: &OnceLock<Py<T>>, object: Py<T>) -> &Py<T> {
    slot.get_or_init(|| object)
}
