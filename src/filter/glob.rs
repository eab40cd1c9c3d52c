//! Patterns: their syntax check and the comparison.

/// The longest text, in bytes, that is compared with most patterns: the longest path of Linux. A
/// longer text matches only itself and `**`. Each handler compares it again, so it would block the
/// server.
const LONGEST_TEXT: usize = 4096;

/// A valid pattern, with the length of the text before its first special character.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Glob {
    pattern: String,
    plain: usize,
}

impl Glob {
    pub(super) fn new(pattern: String) -> Self {
        let plain = pattern
            .find(['*', '?', '[', '{', '\\'])
            .unwrap_or(pattern.len());
        Self { pattern, plain }
    }

    pub(super) fn any(globs: &[Self], text: &str) -> bool {
        globs.iter().any(|glob| glob.matches(text))
    }

    /// Common patterns, and texts with another start, are compared without the glob engine.
    fn matches(&self, text: &str) -> bool {
        let (plain, special) = self.pattern.split_at(self.plain);
        text.strip_prefix(plain).is_some_and(|rest| match special {
            "" => rest.is_empty(),
            "*" => text.len() <= LONGEST_TEXT && !rest.contains('/'),
            "**" => true,
            _ => text.len() <= LONGEST_TEXT && fast_glob::glob_match(&self.pattern, text),
        })
    }

    /// The error of a pattern, if it has one. The glob engine takes some errors for ordinary
    /// characters, and such a pattern would match nothing.
    pub(super) fn error(pattern: &str) -> Option<String> {
        const ESCAPABLE: &[u8] = b"*?[]{}\\!^-,";
        if pattern.starts_with('!') {
            return Some(
                "a pattern says what is wanted; write `\\!` for the character `!` at the start"
                    .into(),
            );
        }
        if let Err(error) = fast_glob::validate(pattern) {
            return Some(error.to_string());
        }
        let bytes = pattern.as_bytes();
        let mut braces: Vec<Brace> = Vec::new();
        // The place of the first member of the open `[`. A `]` there is a member.
        let mut members = None;
        // The byte before this one. For an escaped byte, it is the backslash.
        let mut before = None;
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let next = bytes.get(at + 1).copied();
            match (byte, members) {
                (b'\\', _) => {
                    if !next.is_some_and(|next| ESCAPABLE.contains(&next)) {
                        return Some(format!(
                            "the backslash at byte {at} stands before an ordinary character; write `\\\\` for a backslash"
                        ));
                    }
                    at += 1;
                }
                (b']', Some(start)) if at > start => members = None,
                (byte, Some(_)) if !byte.is_ascii() => {
                    return Some(format!(
                        "the set around byte {at} has characters outside ASCII; write alternatives as `{{ä,ö}}`"
                    ));
                }
                (b'[', None) => {
                    members = Some(at + 1 + usize::from(matches!(next, Some(b'!' | b'^'))));
                }
                (b'{', None) => {
                    let is_at_start = begins_segment(before, &braces);
                    braces.push(Brace {
                        is_at_start,
                        any_depth: None,
                    });
                }
                (b'}', None) if !braces.is_empty() => {
                    let any_depth = braces.pop().and_then(|brace| brace.any_depth);
                    if let Some(any_depth) = any_depth
                        && !ends_segment(bytes, at + 1, any_depth, &mut braces)
                    {
                        return Some(not_whole(any_depth));
                    }
                }
                (b'}' | b']', None) => {
                    let bracket = char::from(byte);
                    return Some(format!(
                        "the `{bracket}` at byte {at} closes nothing; write `\\{bracket}` for the character"
                    ));
                }
                (b'*', None) if next == Some(b'*') => {
                    if !begins_segment(before, &braces)
                        || !ends_segment(bytes, at + 2, at, &mut braces)
                    {
                        return Some(not_whole(at));
                    }
                    at += 1;
                }
                _ => {}
            }
            before = Some(byte);
            at += 1;
        }
        None
    }
}

/// An open `{`.
struct Brace {
    /// Whether its alternatives begin a segment.
    is_at_start: bool,
    /// The place of a `**` at the end of an alternative. Then a segment must end after the `}`, too.
    any_depth: Option<usize>,
}

/// Whether a segment begins after a byte, for each of the alternatives.
fn begins_segment(before: Option<u8>, braces: &[Brace]) -> bool {
    match (before, braces.last()) {
        (None | Some(b'/'), _) => true,
        (Some(b'{' | b','), Some(brace)) => brace.is_at_start,
        _ => false,
    }
}

/// Whether a segment ends before the byte at `at`. If this depends on the text after the open
/// brace, the brace keeps `any_depth`, and its end is checked later.
fn ends_segment(pattern: &[u8], at: usize, any_depth: usize, braces: &mut [Brace]) -> bool {
    match (pattern.get(at), braces.last_mut()) {
        (None | Some(b'/'), _) => true,
        (Some(b',' | b'}'), Some(brace)) => {
            brace.any_depth = Some(any_depth);
            true
        }
        _ => false,
    }
}

fn not_whole(at: usize) -> String {
    format!(
        "the `**` at byte {at} stands for whole segments and needs a `/` on either side; \
         write `*` for a part of one"
    )
}
