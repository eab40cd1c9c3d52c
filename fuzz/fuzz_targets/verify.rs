//! The check of a secret agrees with a second, independent implementation, which is simple and
//! slow.
#![no_main]

use hubhooks::error::Error;
use hubhooks::secret::Verifier;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Request {
    secrets: Vec<String>,
    headers: Vec<(Name, Vec<u8>)>,
    query: Option<Vec<Piece>>,
}

#[derive(Arbitrary, Debug)]
enum Name {
    Secret,
    SecretInCapitals,
    Other(Vec<u8>),
}

/// A part of a query. Most parts have a meaning.
#[derive(Arbitrary, Debug)]
enum Piece {
    Name,
    Secret(u8),
    Encoded(u8),
    Punctuation(u8),
    Other(Vec<u8>),
}

impl Name {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Secret => b"x-webhook-secret",
            Self::SecretInCapitals => b"X-Webhook-SECRET",
            Self::Other(name) => name,
        }
    }
}

fuzz_target!(|request: Request| {
    let Request {
        secrets,
        headers,
        query,
    } = &request;
    let is_usable = |secret: &String| !secret.trim().is_empty() && secret.trim().is_ascii();
    let verifier = match Verifier::new(secrets) {
        Ok(verifier) => verifier,
        Err(Error::Config(_)) => {
            assert!(secrets.is_empty() || !secrets.iter().all(is_usable));
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(secrets.iter().all(is_usable));
    let known: Vec<&[u8]> = secrets
        .iter()
        .map(|secret| secret.trim().as_bytes())
        .collect();

    let query = query.as_ref().map(|pieces| written(pieces, &known));
    let pairs = headers
        .iter()
        .map(|(name, value)| (name.bytes(), value.as_slice()));
    let verdict = verifier.verify_request(pairs, query.as_deref());
    let verdict = match &verdict {
        Ok(()) => Some(true),
        Err(Error::SecretMismatch) => Some(false),
        Err(Error::SecretMissing) => None,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(
        verdict,
        expected(&known, headers, query.as_deref().unwrap_or_default())
    );
});

fn written(pieces: &[Piece], known: &[&[u8]]) -> Vec<u8> {
    let mut query = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Name => query.extend(b"secret="),
            Piece::Secret(number) => query.extend(known[usize::from(*number) % known.len()]),
            Piece::Encoded(byte) => query.extend(format!("%{byte:02x}").bytes()),
            Piece::Punctuation(number) => query.push(b"&=+%?;"[usize::from(*number) % 6]),
            Piece::Other(bytes) => query.extend(bytes),
        }
    }
    query
}

/// True for a right secret, false for a wrong one, None for a missing one.
fn expected(known: &[&[u8]], headers: &[(Name, Vec<u8>)], query: &[u8]) -> Option<bool> {
    let is_right = |value: &[u8]| known.contains(&value);
    let mut values = Vec::new();
    for (name, value) in headers {
        if name.bytes().to_ascii_lowercase() == b"x-webhook-secret" {
            values.push(value.clone());
        }
    }
    if let Some(value) = values.first() {
        return Some(values.iter().all(|other| other == value) && is_right(value));
    }
    let query = if query.first() == Some(&b'?') {
        &query[1..]
    } else {
        query
    };
    for pair in query.split(|byte| *byte == b'&') {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let name = halves.next().expect("a name");
        if decoded(name, false) == b"secret" {
            values.push(halves.next().unwrap_or_default().to_vec());
        }
    }
    let first = values.first()?;
    let is_one = values.iter().all(|other| {
        decoded(other, false) == decoded(first, false)
            && decoded(other, true) == decoded(first, true)
    });
    Some(is_one && (is_right(&decoded(first, false)) || is_right(&decoded(first, true))))
}

fn decoded(text: &[u8], plus_is_space: bool) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).expect("a byte"));
                at += 3;
                continue;
            }
            (b'+', ..) if plus_is_space => bytes.push(b' '),
            (byte, ..) => bytes.push(byte),
        }
        at += 1;
    }
    bytes
}
