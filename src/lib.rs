//! Typed, verified Hugging Face Hub webhooks: the core of the Python package `hubhooks`.
//!
//! * [`event`] parses the body of a delivery.
//! * [`filter`] matches events, and explains why an event matches or not.
//! * [`secret`] checks the secret of a request.
//! * [`scope`] has the documented scopes, and the narrowing rule for newer ones.
//!
//! Only the `python` module uses the interpreter. Without the feature `python` this is a plain Rust
//! crate.
//!
//! ```
//! use hubhooks::event::Event;
//! use hubhooks::text::{Strings, decode};
//!
//! let body = br#"{"event": {"action": "update", "scope": "repo.content"}}"#;
//! let (text, strings) = (decode(body)?, Strings::default());
//! let event = Event::read(&text, &strings)?;
//! assert_eq!(event.scope, "repo.content");
//! # Ok::<(), hubhooks::error::Error>(())
//! ```

pub mod error;
pub mod event;
pub mod filter;
mod legacy;
#[cfg(feature = "python")]
mod python;
mod read;
pub mod scope;
pub mod secret;
pub mod text;
