//! The webhook secret: find it in a request, and compare it in constant time.

use std::fmt;

use percent_encoding::{PercentDecode, percent_decode};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::Error;

/// The header with the secret, in lower case.
pub const HEADER: &[u8] = b"x-webhook-secret";

/// The query parameter with the secret, for a request without the header.
const PARAMETER: &[u8] = b"secret";

type Hash = [u8; 32];

/// Checks the secret of a request. It keeps only hashes of the secrets.
///
/// Each of several secrets is right, so that one can be replaced without losing deliveries.
#[derive(Clone)]
pub struct Verifier {
    // All hashes have the same length, so a comparison does not reveal the length of a secret.
    hashes: Vec<Hash>,
    // The lengths of the secrets, for `may_be_secret` only.
    lengths: Vec<usize>,
}

impl Verifier {
    /// Make a verifier. White space around a secret is removed.
    pub fn new<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Result<Self, Error> {
        let mut hashes = Vec::new();
        let mut lengths = Vec::new();
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
            lengths.push(secret.len());
        }
        if hashes.is_empty() {
            return Err(Error::Config(
                "no webhook secret is given; expected at least one, as entered in the webhook's settings on the Hub"
                    .into(),
            ));
        }
        Ok(Self { hashes, lengths })
    }

    /// Check the secret of a request. White space around it is ignored, because some servers do not
    /// remove it from headers.
    pub fn verify(&self, value: Option<&[u8]>) -> Result<(), Error> {
        let value = value.ok_or(Error::SecretMissing)?;
        to_result(self.is_secret(value))
    }

    /// Find the secret in a request and check it.
    ///
    /// Only the header `X-Webhook-Secret` counts if there is one, even if it is empty. Otherwise the
    /// query parameter `secret` counts. Two different values are an error, because the Hub sent only
    /// one of them.
    pub fn verify_request<'r>(
        &self,
        headers: impl IntoIterator<Item = (&'r [u8], &'r [u8])>,
        query: Option<&[u8]>,
    ) -> Result<(), Error> {
        let values = headers
            .into_iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(HEADER))
            .map(|(_, value)| value.trim_ascii());
        if let Some(value) = single_value(values)? {
            return self.verify(Some(value));
        }
        match single_value(parameters(query.unwrap_or_default()))? {
            Some(Parameter { plain, spaced }) => {
                to_result(self.is_secret(&plain) | self.is_secret(&spaced))
            }
            None => Err(Error::SecretMissing),
        }
    }

    /// Whether a part of a request whose secret was right is a secret too. It is faster for other
    /// lengths: the sender knows the secret.
    pub(crate) fn may_be_secret(&self, value: &[u8]) -> bool {
        self.lengths.contains(&value.trim_ascii().len()) && self.is_secret(value).into()
    }

    /// Compare a value with all secrets. It does not stop at an equal one, to take constant time.
    fn is_secret(&self, value: &[u8]) -> Choice {
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

/// Find a control character or an invisible one, with its place, from 1, and its name. It comes from a
/// file or a copied text, so its name reveals nothing about the secret.
///
/// HTTP forbids control characters in headers, except the tab. The settings of the Hub accept no tab.
/// They accept the delete character, but HTTP forbids it.
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

fn to_result(is_known: Choice) -> Result<(), Error> {
    if is_known.into() {
        Ok(())
    } else {
        Err(Error::SecretMismatch)
    }
}

/// The value of several equal ones. All of them come from the request, so this comparison reveals
/// nothing about the secrets.
fn single_value<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Result<Option<T>, Error> {
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.all(|value| value == first) {
        Ok(Some(first))
    } else {
        Err(Error::SecretMismatch)
    }
}

/// A decoded value of the query, with both meanings of `+`: a plus in URLs, a space in HTML forms.
/// The owner of a webhook types the URL, and can mean either.
#[derive(PartialEq)]
struct Parameter {
    plain: Vec<u8>,
    spaced: Vec<u8>,
}

/// The values of all query parameters named `secret`.
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
                // Replace `+` before the value is decoded, because `%2B` is always a plus.
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
