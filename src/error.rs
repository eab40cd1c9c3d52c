//! The error of the crate. A message names the problem, the place and the right form. It never
//! repeats the secret or the body.

use std::fmt;

/// All errors of the core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The configuration of the app is invalid.
    #[error("{0}")]
    Config(String),
    /// The request has no secret.
    #[error("the request carries no secret: send it as `X-Webhook-Secret` or `?secret=`")]
    SecretMissing,
    /// The request has a wrong secret, or two different ones.
    #[error("the request's secret is not the one configured here")]
    SecretMismatch,
    /// The body is not a Hub event.
    #[error("{0}")]
    Payload(Problem),
}

impl Error {
    /// An error about a body, without a place.
    #[cfg(feature = "python")]
    pub(crate) fn nowhere(what: impl Into<String>) -> Self {
        Self::Payload(Problem {
            what: what.into(),
            path: String::new(),
            place: None,
        })
    }
}

/// The error of a body, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The problem and the right form, without the place.
    pub what: String,
    /// The field, with dots and indexes (`updatedRefs[0].ref`); empty for the whole body.
    pub path: String,
    /// Line and column, as `serde_json` counts them: lines from 1, columns in bytes from 1, and 0
    /// for the end of the line before.
    ///
    /// None if the error has no place.
    pub place: Option<(usize, usize)>,
}

impl fmt::Display for Problem {
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
