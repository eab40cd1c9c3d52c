//! The error type of the crate. A message names the fault, its position and a valid value. It never
//! has the secret or the body.

use std::fmt;

/// An error of the core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A secret or a filter is invalid.
    #[error("{0}")]
    Config(String),
    /// The request has no secret.
    #[error("the request carries no secret: send it as `X-Webhook-Secret` or `?secret=`")]
    SecretMissing,
    /// The request has a wrong secret, or two different ones.
    #[error("the request's secret is not the one configured here")]
    SecretMismatch,
    /// The body is not a valid Hub event.
    #[error("{0}")]
    Payload(PayloadError),
}

impl Error {
    /// An error of a body without a position.
    #[cfg(feature = "python")]
    pub(crate) fn without_position(what: impl Into<String>) -> Self {
        Self::Payload(PayloadError {
            what: what.into(),
            path: String::new(),
            place: None,
        })
    }
}

/// An error of a body, with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadError {
    /// The message without the path and the position.
    pub what: String,
    /// The field, with dots and indexes (`updatedRefs[0].ref`); empty for the body as a whole.
    pub path: String,
    /// The line and the column, as `serde_json` counts them. Both begin at 1, and columns count
    /// bytes. A newline has column 0 of the next line. `None` if the error has no position.
    pub place: Option<(usize, usize)>,
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "`{}`: ", self.path)?;
        }
        f.write_str(&self.what)?;
        match self.place {
            Some((line, column)) => write!(f, " at line {line} column {column}"),
            None => Ok(()),
        }
    }
}
