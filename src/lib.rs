//! Typed, verified Hugging Face Hub webhooks: the core of the Python package `hubhooks`.
//!
//! * [`event`] reads a delivery's body into the Hub's nouns;
//! * [`filter`] says which events a handler listens to, and explains why it heard one or not;
//! * [`secret`] checks the secret a request carries;
//! * [`scope`] knows the documented scopes and how to read newer ones.
//!
//! Nothing outside the `python` module names the interpreter: without the `python` feature this is
//! a plain Rust crate.
//!
//! ```
//! use hubhooks::event::Event;
//! use hubhooks::text::{StringArena, decode};
//!
//! let body = br#"{"event": {"action": "update", "scope": "repo.content"}}"#;
//! let (text, strings) = (decode(body)?, StringArena::default());
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
