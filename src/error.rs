//! The crate's one error. Messages say what is wrong, where and what would be right; they never
//! repeat the secret or the body.

use std::fmt;

/// Everything that can go wrong in the core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The author of the app set something up that cannot work.
    #[error("{0}")]
    Config(String),
    /// The request carries no secret.
    #[error("the request carries no secret: send it as `X-Webhook-Secret` or `?secret=`")]
    SecretMissing,
    /// The request carries a wrong secret, or two different ones.
    #[error("the request's secret is not the one configured here")]
    SecretMismatch,
    /// The body is no Hub event.
    #[error("{0}")]
    Payload(PayloadError),
}

impl Error {
    /// A mistake of a body that has no place in it.
    #[cfg(feature = "python")]
    pub(crate) fn nowhere(what: impl Into<String>) -> Self {
        Self::Payload(PayloadError {
            what: what.into(),
            path: String::new(),
            place: None,
        })
    }
}

/// What is wrong with a body, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadError {
    /// What was wrong and what would be right, without the place.
    pub what: String,
    /// The field, with dots and indexes (`updatedRefs[0].ref`); empty for the body as a whole.
    pub path: String,
    /// Line and column, both as `serde_json` counts them: lines from 1, columns in bytes
    /// from 1, and 0 for the end of the line before.
    /// None when the mistake has no place.
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
