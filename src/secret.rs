//! The secret a request carries: finding it and comparing it. The only file that names `subtle`.

use std::fmt;

use percent_encoding::{PercentDecode, percent_decode};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::Error;

/// The header the Hub sends the secret in, in lower case.
pub const HEADER: &[u8] = b"x-webhook-secret";

/// The parameter of the query that may carry the secret instead.
const PARAMETER: &[u8] = b"secret";

type Hash = [u8; 32];

/// Knows whether a request carries the right secret, without keeping it.
///
/// Several secrets are all right at once, so that one can be replaced without losing deliveries.
#[derive(Clone)]
pub struct Verifier {
    // Hashes have one length, so that comparing them tells nothing about the length of a secret.
    hashes: Vec<Hash>,
}

impl Verifier {
    /// Take the secrets, without the white space around them.
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

    /// Judge the value that a request carries as its secret. White space around it is ignored: some
    /// servers remove it from headers, and others do not.
    pub fn verify(&self, value: Option<&[u8]>) -> Result<(), Error> {
        let value = value.ok_or(Error::SecretMissing)?;
        decide(self.knows(value))
    }

    /// Find the secret in a request and judge it.
    ///
    /// The header `X-Webhook-Secret` decides alone where there is one, even if it is empty; else
    /// the parameter `secret` of the query does. Two different values are refused, as there is no
    /// telling which of them the Hub sent.
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
            Some(Parameter { plain, spaced }) => decide(self.knows(&plain) | self.knows(&spaced)),
            None => Err(Error::SecretMissing),
        }
    }

    /// Compare a value with all secrets, without stopping at the one that is equal.
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

/// Find a control character or an invisible one, and give its place, from 1, and its kind. It came
/// with a file or a copied text, so that to name it tells nothing of the secret.
///
/// HTTP forbids control characters in headers. It allows a tab, which the Hub's settings do not
/// take; they take the delete character, which HTTP forbids.
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

/// The one value among several equal ones. All come from the request, so that comparing them tells
/// nothing about our secrets.
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

/// A decoded value of the query, in the two readings of `+`: URLs keep it, HTML forms write a space
/// so. The owner of a webhook types the URL by hand and may have meant either.
#[derive(PartialEq)]
struct Parameter {
    plain: Vec<u8>,
    spaced: Vec<u8>,
}

/// The values of all parameters of the query that are named `secret`.
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
                // Before decoding, so that `%2B` stays the plus it stands for.
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
