//! Finds the secret of a request, and compares it. The only file that names `subtle`.

use std::fmt;

use percent_encoding::{PercentDecode, percent_decode};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::Error;

/// The header with the secret, in lower case.
pub const HEADER: &[u8] = b"x-webhook-secret";

/// The parameter of the query that can have the secret instead.
const PARAMETER: &[u8] = b"secret";

type Hash = [u8; 32];

/// Checks the secret of a request. It keeps only digests of the secrets.
///
/// Each of several secrets is right, so that one can be replaced without losing deliveries.
#[derive(Clone)]
pub struct Verifier {
    // All digests have one length, so a comparison shows nothing about the length of a secret.
    hashes: Vec<Hash>,
}

impl Verifier {
    /// Make a verifier. White space around a secret is removed.
    pub fn new<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let mut hashes = Vec::new();
        for (at, secret) in secrets.into_iter().enumerate() {
            let secret = secret.as_ref().trim();
            let number = at + 1;
            if secret.is_empty() {
                return Err(Error::Config(format!(
                    "webhook secret {number} is empty; expected the one entered in the webhook's settings on the Hub"
                )));
            }
            if let Some((place, kind)) = unusual(secret) {
                return Err(Error::Config(format!(
                    "webhook secret {number} has {kind} at character {place}, which the Hub cannot send \
                     in a header; expected ASCII letters, digits and punctuation"
                )));
            }
            if !secret.is_ascii() {
                return Err(Error::Config(format!(
                    "webhook secret {number} has characters outside ASCII, which no HTTP header carries; \
                     expected ASCII letters, digits and punctuation"
                )));
            }
            hashes.push(hash(secret.as_bytes()));
        }
        if hashes.is_empty() {
            return Err(Error::Config(
                "no webhook secret is given; expected at least one, as entered in the webhook's settings on the Hub"
                    .into(),
            ));
        }
        Ok(Self { hashes })
    }

    /// Check a value as the secret. White space around it is ignored, because some servers remove
    /// it from headers and others do not.
    pub fn verify(&self, value: Option<&[u8]>) -> Result<(), Error> {
        let value = value.ok_or(Error::SecretMissing)?;
        decide(self.knows(value))
    }

    /// Find the secret in a request and check it.
    ///
    /// A header `X-Webhook-Secret` decides alone, even an empty one. Without it, the parameter
    /// `secret` of the query decides. Two different values are rejected, because either could be
    /// the Hub's.
    pub fn verify_request<'r>(
        &self,
        headers: impl IntoIterator<Item = (&'r [u8], &'r [u8])>,
        query: Option<&[u8]>,
    ) -> Result<(), Error> {
        let values = headers
            .into_iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(HEADER))
            .map(|(_, value)| value.trim_ascii());
        if let Some(value) = only(values)? {
            return self.verify(Some(value));
        }
        match only(parameters(query.unwrap_or_default()))? {
            Some(Parameter { plain, spaced }) => decide(self.knows(&plain) | self.knows(&spaced)),
            None => Err(Error::SecretMissing),
        }
    }

    /// Compare a value with all secrets. It does not stop at an equal one.
    fn knows(&self, value: &[u8]) -> Choice {
        let hash = hash(value.trim_ascii());
        self.hashes
            .iter()
            .fold(Choice::from(0), |found, known| found | known.ct_eq(&hash))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hashes.len() {
            1 => f.write_str("Verifier(1 secret, redacted)"),
            count => write!(f, "Verifier({count} secrets, redacted)"),
        }
    }
}

/// Find a control or invisible character: its place, from 1, and its kind. A file or a copied text
/// added it, so its name shows nothing of the secret.
///
/// HTTP forbids control characters in headers, but allows a tab. The Hub's settings reject a tab,
/// but accept the delete character, which HTTP forbids.
fn unusual(secret: &str) -> Option<(usize, &'static str)> {
    secret.chars().enumerate().find_map(|(at, c)| {
        let kind = match c {
            '\n' => "a line feed",
            '\r' => "a carriage return",
            '\t' => "a tab",
            '\0' => "a NUL",
            '\x1b' => "an escape character",
            '\x7f' => "a delete character",
            '\u{feff}' => "a byte order mark",
            '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' => "an invisible character",
            _ if c.is_control() => "a control character",
            _ => return None,
        };
        Some((at + 1, kind))
    })
}

fn hash(value: &[u8]) -> Hash {
    Sha256::digest(value).into()
}

fn decide(is_known: Choice) -> Result<(), Error> {
    if is_known.into() {
        Ok(())
    } else {
        Err(Error::SecretMismatch)
    }
}

/// The value of several equal ones. All come from the request, so their comparison shows nothing
/// about our secrets.
fn only<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Result<Option<T>, Error> {
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.all(|value| value == first) {
        Ok(Some(first))
    } else {
        Err(Error::SecretMismatch)
    }
}

/// A decoded value of the query, in the two readings of `+`. URLs keep it, and HTML forms write a
/// space so. The owner of a webhook types the URL by hand, and can mean either.
#[derive(PartialEq)]
struct Parameter {
    plain: Vec<u8>,
    spaced: Vec<u8>,
}

/// The values of all parameters `secret` of the query.
fn parameters(query: &[u8]) -> impl Iterator<Item = Parameter> {
    query
        .strip_prefix(b"?")
        .unwrap_or(query)
        .split(|byte| *byte == b'&')
        .filter_map(|pair| {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            percent_decode(name).eq(PARAMETER.iter().copied()).then(|| {
                // Before decoding, because `%2B` is a plus.
                let with_spaces: Vec<u8> = value
                    .iter()
                    .map(|byte| if *byte == b'+' { b' ' } else { *byte })
                    .collect();
                Parameter {
                    plain: trimmed(percent_decode(value)),
                    spaced: trimmed(percent_decode(&with_spaces)),
                }
            })
        })
}

fn trimmed(value: PercentDecode<'_>) -> Vec<u8> {
    value.collect::<Vec<_>>().trim_ascii().to_vec()
}
