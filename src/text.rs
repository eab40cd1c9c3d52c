//! From bytes to text that a JSON reader can take: UTF-8, no lone surrogates, no endless numbers.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

use elsa::sync::FrozenVec;

use memchr::{memchr_iter, memchr2, memrchr};

use crate::error::{Error, PayloadError};

/// Decoded strings that a body writes with escapes. Fields of an event borrow from the body or from
/// here.
#[derive(Default)]
pub struct StringArena {
    kept: FrozenVec<Box<str>>,
    /// The first field that has a wrong type, and the message. An error of serde carries only text.
    field_error: OnceLock<(&'static str, String)>,
}

impl StringArena {
    pub(crate) fn keep(&self, text: String) -> &str {
        self.kept.push_get(text.into())
    }

    /// Make an error about a field, and remember the path and the message.
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

/// The longest number, in characters, that is read. A body shorter than this needs no look at the
/// length of its numbers; a longer one cannot keep the number reader busy.
const LONGEST_NUMBER: usize = 65_536;

/// Take a body as text. Lone surrogates, which JSON can write but no text can hold, become U+FFFD;
/// a body without them is not copied.
pub fn decode(body: &[u8]) -> Result<Cow<'_, str>, Error> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let (line, column) = place(body, error.valid_up_to());
        Error::Payload(PayloadError {
            what: "expected UTF-8, found other bytes".into(),
            path: String::new(),
            place: Some((line, column + 1)),
        })
    })?;
    // The reader would say that it expected a value, about a character that nobody sees.
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

/// Where a number longer than `LONGEST_NUMBER` starts, if there is one.
///
/// One byte in each stretch of that length is looked at: a longer number covers at least one of them.
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
            // A stretch back is far enough: a run that began before it has been judged already.
            let stretch = &body[probe - LONGEST_NUMBER..=probe];
            let before = stretch.iter().rev().take_while(is_number).count();
            let start = probe + 1 - before;
            if before == 0 || (before > LONGEST_NUMBER && start > 0) {
                return None;
            }
            let rest = body[start..].iter().take(LONGEST_NUMBER + 1);
            (rest.take_while(is_number).count() > LONGEST_NUMBER && !strings.holds(start))
                .then_some(start)
        })
}

/// Tells which bytes of a body are in strings, walking over it once.
struct InStrings<'b> {
    body: &'b [u8],
    at: usize,
    is_inside: bool,
}

impl InStrings<'_> {
    /// Whether the byte at this place is in a string. Places must not go back.
    fn holds(&mut self, place: usize) -> bool {
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

/// Replace each `\uD800`..`\uDFFF` escape that is not part of a pair by `\uFFFD`, which has the same
/// length, so that every place in the body stays where it is.
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
    // ASCII took the place of ASCII, so that it is text.
    match repaired.and_then(|repaired| String::from_utf8(repaired).ok()) {
        Some(repaired) => Cow::Owned(repaired),
        None => Cow::Borrowed(text),
    }
}

/// A half of a pair of surrogates.
enum Half {
    High,
    Low,
}

/// The half of a pair that the escape at `at` writes, if it writes one.
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

/// Where a part of a text stands in it.
///
/// # Panics
///
/// When it is no part of that text.
pub(crate) fn range_in(text: &str, part: &str) -> std::ops::Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    assert!(start + part.len() <= text.len(), "a part of the text");
    start..start + part.len()
}

/// A text that cannot break the line it is shown in, nor do anything else to a terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().fold(String::new(), |mut line, c| {
        match c {
            '"' | '\'' | '\\' => line.push(c),
            _ => line.extend(c.escape_debug()),
        }
        line
    })
}

/// The most characters of a value that a message or a `repr` quotes.
pub(crate) const LONGEST_QUOTE: usize = 120;

/// A value of a body as messages quote it: on one line, and cut if it is long, with its length.
pub(crate) fn excerpt(text: &str) -> String {
    match line_start(text, LONGEST_QUOTE) {
        (line, false) => line,
        (line, true) => format!("{line}... ({} bytes)", text.len()),
    }
}

/// The start of a text as [`one_line`] gives it, and whether there is more of the text.
pub(crate) fn line_start(text: &str, longest: usize) -> (String, bool) {
    // An escaped character takes up to ten, so the line is cut once more.
    let end = text.char_indices().nth(longest).map(|(end, _)| end);
    let mut line = one_line(&text[..end.unwrap_or(text.len())]);
    let cut = line.char_indices().nth(longest).map(|(cut, _)| cut);
    line.truncate(cut.unwrap_or(line.len()));
    (line, end.is_some() || cut.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_keeps_what_is_short() {
        for text in ["", "main", "a\"b'c\\d", &"é".repeat(LONGEST_QUOTE)] {
            assert_eq!(excerpt(text), text);
        }
        assert_eq!(excerpt("a\nb"), "a\\nb");
    }

    #[test]
    fn excerpt_of_a_long_text_is_short_and_tells_its_length() {
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
