//! Decoding: from bytes to UTF-8 text without lone surrogates and without overlong numbers.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

use elsa::sync::FrozenVec;

use memchr::{memchr_iter, memchr2, memrchr};

use crate::error::{Error, PayloadError};

/// The decoded strings of a body that have escapes. The fields of an event borrow from the body or
/// from this arena.
#[derive(Default)]
pub struct StringArena {
    kept: FrozenVec<Box<str>>,
    /// The path and the message of the first field error. An error of serde has only text.
    field_error: OnceLock<(&'static str, String)>,
}

impl StringArena {
    pub(crate) fn keep(&self, text: String) -> &str {
        self.kept.push_get(text.into())
    }

    /// Make an error about a field, and store the path and the message.
    pub(crate) fn field_error<E: serde::de::Error>(
        &self,
        path: &'static str,
        what: impl fmt::Display,
    ) -> E {
        let what = what.to_string();
        let error = E::custom(&what);
        self.field_error.get_or_init(|| (path, what));
        error
    }

    /// The path and the message of the error of [`StringArena::field_error`], if there is one.
    pub(crate) fn first_field_error(&self) -> Option<&(&'static str, String)> {
        self.field_error.get()
    }
}

impl fmt::Debug for StringArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} strings", self.kept.len())
    }
}

/// The length of the longest valid number, in characters. Without a limit, one number could keep the
/// parser busy for seconds. A shorter body needs no check.
const LONGEST_NUMBER: usize = 65_536;

/// Decode a body. U+FFFD replaces lone surrogates: JSON can have them, and UTF-8 text cannot. A body
/// without them is not copied.
pub fn decode(body: &[u8]) -> Result<Cow<'_, str>, Error> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let (line, column) = place(body, error.valid_up_to());
        Error::Payload(PayloadError {
            what: "expected UTF-8, found other bytes".into(),
            path: String::new(),
            place: Some((line, column + 1)),
        })
    })?;
    // The error of the parser would not name this invisible character.
    if text.starts_with('\u{feff}') {
        return Err(Error::Payload(PayloadError {
            what: "expected a body that starts with `{`, found a byte order mark".into(),
            path: String::new(),
            place: Some((1, 1)),
        }));
    }
    if let Some(at) = long_number(body) {
        return Err(Error::Payload(PayloadError {
            what: format!("expected a number of at most {LONGEST_NUMBER} characters"),
            path: String::new(),
            place: Some(place(body, at + 1)),
        }));
    }
    Ok(replace_lone_surrogates(text))
}

/// The line and column of the byte before `at`, as `serde_json` counts them.
fn place(body: &[u8], at: usize) -> (usize, usize) {
    let before = &body[..at];
    let line = 1 + memchr_iter(b'\n', before).count();
    let column = at - memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    (line, column)
}

/// The start of the first number that is longer than `LONGEST_NUMBER`.
///
/// Only one byte in each `LONGEST_NUMBER` is read, because a longer number covers at least one.
fn long_number(body: &[u8]) -> Option<usize> {
    let is_number = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let mut strings = InStrings {
        body,
        at: 0,
        is_inside: false,
    };
    (LONGEST_NUMBER..body.len())
        .step_by(LONGEST_NUMBER)
        .find_map(|probe| {
            // A number that begins before this window was checked at the probe before.
            let window = &body[probe - LONGEST_NUMBER..=probe];
            let before = window.iter().rev().take_while(is_number).count();
            let start = probe + 1 - before;
            if before == 0 || (before > LONGEST_NUMBER && start > 0) {
                return None;
            }
            let rest = body[start..].iter().take(LONGEST_NUMBER + 1);
            (rest.take_while(is_number).count() > LONGEST_NUMBER && !strings.contain(start))
                .then_some(start)
        })
}

/// Finds out whether bytes are inside strings, in one pass over the body.
struct InStrings<'b> {
    body: &'b [u8],
    at: usize,
    is_inside: bool,
}

impl InStrings<'_> {
    /// Whether the byte at this place is inside a string. Each call needs a later place.
    fn contain(&mut self, place: usize) -> bool {
        while let Some(next) = memchr2(b'"', b'\\', &self.body[self.at.min(place)..place]) {
            let mark = self.at + next;
            if self.body[mark] == b'"' {
                self.is_inside = !self.is_inside;
                self.at = mark + 1;
            } else {
                self.at = mark + 2;
            }
        }
        self.is_inside
    }
}

/// Replace each escape of a lone surrogate by `\uFFFD`. It has the same length, so the positions in
/// the body do not change.
fn replace_lone_surrogates(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut repaired: Option<Vec<u8>> = None;
    let mut next = 0;
    for at in memchr_iter(b'\\', bytes) {
        if at < next {
            continue;
        }
        next = at + 2;
        match surrogate(bytes, at) {
            Some(Half::High) if matches!(surrogate(bytes, at + 6), Some(Half::Low)) => {
                next = at + 12;
            }
            Some(_) => {
                let repaired = repaired.get_or_insert_with(|| bytes.to_vec());
                repaired[at..at + 6].copy_from_slice(b"\\uFFFD");
            }
            None => {}
        }
    }
    // ASCII replaced ASCII, so this is valid UTF-8.
    match repaired.and_then(|repaired| String::from_utf8(repaired).ok()) {
        Some(repaired) => Cow::Owned(repaired),
        None => Cow::Borrowed(text),
    }
}

/// A half of a surrogate pair.
enum Half {
    High,
    Low,
}

/// The surrogate of the escape at `at`, if it is one.
fn surrogate(bytes: &[u8], at: usize) -> Option<Half> {
    let Some(&[b'\\', b'u', b'd' | b'D', second, third, fourth]) = bytes.get(at..at + 6) else {
        return None;
    };
    if !third.is_ascii_hexdigit() || !fourth.is_ascii_hexdigit() {
        return None;
    }
    match second {
        b'8' | b'9' | b'a' | b'b' | b'A' | b'B' => Some(Half::High),
        b'c'..=b'f' | b'C'..=b'F' => Some(Half::Low),
        _ => None,
    }
}

/// The range of a slice in its text.
///
/// # Panics
///
/// If it is not a slice of the text.
pub(crate) fn range_in(text: &str, part: &str) -> std::ops::Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    assert!(start + part.len() <= text.len(), "a part of the text");
    start..start + part.len()
}

/// Escape control characters, so that a text stays on its line and cannot control a terminal.
pub(crate) fn single_line(text: &str) -> String {
    text.chars().fold(String::new(), |mut line, c| {
        match c {
            '"' | '\'' | '\\' => line.push(c),
            _ => line.extend(c.escape_debug()),
        }
        line
    })
}

/// The largest number of characters of a value in a message or a `repr`.
pub(crate) const LONGEST_QUOTE: usize = 120;

/// A value of a body for messages: on one line, and cut if it is long, with its length.
pub(crate) fn excerpt(text: &str) -> String {
    match line_start(text, LONGEST_QUOTE) {
        (line, false) => line,
        (line, true) => format!("{line}... ({} bytes)", text.len()),
    }
}

/// The start of a text as one line, and whether the text was cut.
pub(crate) fn line_start(text: &str, longest: usize) -> (String, bool) {
    // Escaping can make a character ten times as long, so the line is cut again.
    let end = text.char_indices().nth(longest).map(|(end, _)| end);
    let mut line = single_line(&text[..end.unwrap_or(text.len())]);
    let cut = line.char_indices().nth(longest).map(|(cut, _)| cut);
    line.truncate(cut.unwrap_or(line.len()));
    (line, end.is_some() || cut.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_keeps_short_text() {
        for text in ["", "main", "a\"b'c\\d", &"é".repeat(LONGEST_QUOTE)] {
            assert_eq!(excerpt(text), text);
        }
        assert_eq!(excerpt("a\nb"), "a\\nb");
    }

    #[test]
    fn excerpt_of_a_long_text_is_short_and_has_its_length() {
        for c in ["a", "é", "😀", "\n", "\u{1b}", "\u{e0001}"] {
            let text = c.repeat(100_000);
            let shown = excerpt(&text);
            assert!(
                shown.ends_with(&format!("... ({} bytes)", text.len())),
                "{shown}"
            );
            assert!(shown.chars().count() <= LONGEST_QUOTE + 20, "{shown}");
        }
    }
}
