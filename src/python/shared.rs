//! The parsed body that an event and its views share.

use std::sync::Arc;

use pyo3::pybacked::PyBackedBytes;
use serde_json::Value;

use crate::error::Error;
use crate::event::Event;
use crate::owned::{BoxedEvent, body_cell};
use crate::read::value_of;

body_cell!(Cell, PyBackedBytes);

/// A parsed body. Views hold it, and not the Python object of their event, so there is no reference
/// cycle for the garbage collector.
#[derive(Clone)]
pub(super) struct EventCell(Arc<Cell>);

impl EventCell {
    pub(super) fn read(raw: PyBackedBytes) -> Result<Self, Error> {
        Ok(Self(Arc::new(Cell::parse(raw)?)))
    }

    pub(super) fn event(&self) -> &Event<'_> {
        self.0.borrow_dependent()
    }

    /// The exact bytes of the body.
    pub(super) fn raw(&self) -> &PyBackedBytes {
        &self.0.borrow_owner().raw
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The body as a new JSON value. Only `to_dict` and comparisons need it.
    pub(super) fn value(&self) -> Value {
        value_of(self.event().text())
    }

    /// The value under nested keys; null if there is none.
    pub(super) fn value_at(&self, keys: &[&str]) -> Value {
        keys.iter().fold(self.value(), |mut value, key| {
            value.get_mut(*key).map(Value::take).unwrap_or_default()
        })
    }
}
