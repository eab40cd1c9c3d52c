//! Events that own their body.

use std::borrow::Cow;
use std::fmt;

use crate::error::Error;
use crate::event::Event;
use crate::text::{StringArena, decode};

/// A body, and the strings that its event borrows.
pub(crate) struct Body<B> {
    pub(crate) raw: B,
    /// The text without lone surrogates, if `raw` has any.
    repaired: Option<Box<str>>,
    strings: StringArena,
}

pub(crate) type BoxedEvent<'a> = Box<Event<'a>>;

/// The reason why an event cannot borrow from `raw`.
pub(crate) enum Unparsed {
    Invalid(Error),
    Repaired(Box<str>),
}

impl<B: AsRef<[u8]>> Body<B> {
    pub(crate) fn new(raw: B) -> Self {
        Self {
            raw,
            repaired: None,
            strings: StringArena::default(),
        }
    }

    pub(crate) fn with_repaired(self, text: Box<str>) -> Self {
        Self {
            repaired: Some(text),
            ..self
        }
    }

    pub(crate) fn parse(&self) -> Result<BoxedEvent<'_>, Unparsed> {
        match decode(self.raw.as_ref()).map_err(Unparsed::Invalid)? {
            Cow::Borrowed(text) => Event::read(text, &self.strings).map_err(Unparsed::Invalid),
            Cow::Owned(text) => Err(Unparsed::Repaired(text.into())),
        }
    }

    pub(crate) fn parse_repaired(&self) -> Result<BoxedEvent<'_>, Error> {
        Event::read(self.repaired.as_deref().unwrap_or_default(), &self.strings)
    }
}

/// Define a cell with a body and its event. `self_cell` takes no type parameters, so the type of the
/// bytes is a parameter of this macro.
macro_rules! body_cell {
    ($Cell:ident, $Bytes:ty) => {
        self_cell::self_cell!(
            struct $Cell {
                owner: $crate::owned::Body<$Bytes>,
                #[covariant]
                dependent: BoxedEvent,
            }
        );

        impl $Cell {
            fn parse(raw: $Bytes) -> Result<Self, $crate::error::Error> {
                use $crate::owned::{Body, Unparsed};

                match Self::try_new_or_recover(Body::new(raw), Body::parse) {
                    Ok(cell) => Ok(cell),
                    Err((_, Unparsed::Invalid(error))) => Err(error),
                    Err((body, Unparsed::Repaired(text))) => {
                        Self::try_new(body.with_repaired(text), Body::parse_repaired)
                    }
                }
            }
        }
    };
}
#[cfg(feature = "python")]
pub(crate) use body_cell;

body_cell!(Cell, Vec<u8>);

/// An event that owns its body. It borrows from nothing, so it can be stored and sent to threads.
///
/// ```
/// use hubhooks::OwnedEvent;
///
/// let event = OwnedEvent::parse(r#"{"event": {"action": "update", "scope": "repo.content"}}"#)?;
/// assert_eq!(event.event().scope, "repo.content");
/// # Ok::<(), hubhooks::error::Error>(())
/// ```
pub struct OwnedEvent(Cell);

impl OwnedEvent {
    /// Parse the body of a delivery. The whole body is checked here.
    pub fn parse(body: impl Into<Vec<u8>>) -> Result<Self, Error> {
        Cell::parse(body.into()).map(Self)
    }

    /// The event.
    pub fn event(&self) -> &Event<'_> {
        self.0.borrow_dependent()
    }

    /// The exact bytes of the body.
    pub fn raw(&self) -> &[u8] {
        &self.0.borrow_owner().raw
    }
}

impl fmt::Debug for OwnedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedEvent").field(self.event()).finish()
    }
}
