//! A body and what was read from it, shared by an event and its parts.

use std::borrow::Cow;
use std::sync::Arc;

use pyo3::pybacked::PyBackedBytes;
use self_cell::self_cell;
use serde_json::Value;

use crate::error::Error;
use crate::event::Event;
use crate::read::value_of;
use crate::text::{self, StringArena};

/// What an event's fields are borrowed from.
struct Body {
    raw: PyBackedBytes,
    /// The text without lone surrogates, if `raw` has any.
    repaired: Option<Box<str>>,
    strings: StringArena,
}

type BoxedEvent<'a> = Box<Event<'a>>;

self_cell!(
    struct Cell {
        owner: Body,
        #[covariant]
        dependent: BoxedEvent,
    }
);

/// A parsed body. Parts hold it rather than the Python object of their event, so that no reference
/// cycle needs the garbage collector.
#[derive(Clone)]
pub(super) struct EventCell(Arc<Cell>);

/// Why a body could not be borrowed from.
enum Unread {
    Broken(Error),
    Repaired(Box<str>),
}

impl EventCell {
    pub(super) fn read(raw: PyBackedBytes) -> Result<Self, Error> {
        let body = Body {
            raw,
            repaired: None,
            strings: StringArena::default(),
        };
        let cell = match Cell::try_new_or_recover(body, borrow) {
            Ok(cell) => cell,
            Err((_, Unread::Broken(error))) => return Err(error),
            Err((body, Unread::Repaired(text))) => {
                let body = Body {
                    repaired: Some(text),
                    ..body
                };
                Cell::try_new(body, |body| {
                    Event::read(body.repaired.as_deref().unwrap_or_default(), &body.strings)
                })?
            }
        };
        Ok(Self(Arc::new(cell)))
    }

    pub(super) fn event(&self) -> &Event<'_> {
        self.0.borrow_dependent()
    }

    /// The body as it was received.
    pub(super) fn raw(&self) -> &PyBackedBytes {
        &self.0.borrow_owner().raw
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The whole body as a JSON value. Made anew: only `to_dict` and comparisons need it.
    pub(super) fn value(&self) -> Value {
        value_of(self.event().text())
    }

    /// The value under these keys, one in another; null if there is none.
    pub(super) fn value_at(&self, keys: &[&str]) -> Value {
        keys.iter().fold(self.value(), |mut value, key| {
            value.get_mut(*key).map(Value::take).unwrap_or_default()
        })
    }
}

fn borrow(body: &Body) -> Result<BoxedEvent<'_>, Unread> {
    match text::decode(&body.raw).map_err(Unread::Broken)? {
        Cow::Borrowed(text) => Event::read(text, &body.strings).map_err(Unread::Broken),
        Cow::Owned(text) => Err(Unread::Repaired(text.into())),
    }
}
