//! Hugging Face Hub webhooks: verify, parse and match deliveries. This is the core of the Python
//! package `hubhooks`.
//!
//! * [`OwnedEvent`] is the parsed body of a delivery, and [`event`] has its types.
//! * [`filter`] matches events, and explains why one matches or not.
//! * [`secret`] checks the webhook secret of a request.
//! * [`headers`] chooses the headers of a request that can be stored.
//! * [`scope`] has the documented scopes, and the rule for undocumented ones.
//!
//! Only the module `python` uses the Python interpreter. Without the feature `python`, which is on by
//! default, the crate needs no Python:
//!
//! ```toml
//! hubhooks = { version = "0.1", default-features = false }
//! ```
//!
//! # Example
//!
//! Check the secret of a request, parse its body and match it:
//!
//! ```
//! use hubhooks::OwnedEvent;
//! use hubhooks::filter::{Criteria, Filter, ScopeOrClass};
//! use hubhooks::secret::Verifier;
//!
//! let verifier = Verifier::new(["a long random secret"])?;
//! let filter = Filter::new(Criteria {
//!     scopes: vec![ScopeOrClass::Scope("repo.content".into())],
//!     repo: Some(vec!["ada-labs/*".into()]),
//!     ..Criteria::default()
//! })?;
//!
//! // A request of the Hub.
//! let headers: [(&[u8], &[u8]); 1] = [(b"x-webhook-secret", b"a long random secret")];
//! let body = r#"{
//!     "event": {"action": "update", "scope": "repo.content"},
//!     "repo": {"type": "model", "name": "ada-labs/tiny"}
//! }"#;
//!
//! verifier.verify_request(headers, None)?;
//! let event = OwnedEvent::parse(body)?;
//! assert!(filter.matches(event.event()));
//! # Ok::<(), hubhooks::error::Error>(())
//! ```
//!
//! `examples/axum_server.rs` in the repository is a server with axum.

pub mod error;
pub mod event;
pub mod filter;
pub mod headers;
mod legacy;
mod owned;
#[cfg(feature = "python")]
mod python;
mod read;
pub mod scope;
pub mod secret;
pub mod text;

pub use owned::OwnedEvent;
