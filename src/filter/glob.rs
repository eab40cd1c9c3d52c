//! Patterns. The only file that names `fast_glob`.

/// A pattern that was checked, with the length of what stands before its first special character.
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

    /// The commonest shapes, and texts that differ early, do without the glob engine.
    fn matches(&self, text: &str) -> bool {
        let (plain, special) = self.pattern.split_at(self.plain);
        text.strip_prefix(plain).is_some_and(|rest| match special {
            "" => rest.is_empty(),
            "*" => !rest.contains('/'),
            "**" => true,
            _ => fast_glob::glob_match(&self.pattern, text),
        })
    }

    /// What is wrong with a pattern, beyond what the glob engine refuses itself: it takes some
    /// mistakes for ordinary characters, and they would silently match nothing.
    pub(super) fn mistake(pattern: &str) -> Option<String> {
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
        let mut braces = 0_usize;
        // Where the members of the open `[` start: a `]` there is one of them.
        let mut members = None;
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
                (b'{', None) => braces += 1,
                (b'}', None) if braces > 0 => braces -= 1,
                (b'}' | b']', None) => {
                    let bracket = char::from(byte);
                    return Some(format!(
                        "the `{bracket}` at byte {at} closes nothing; write `\\{bracket}` for the character"
                    ));
                }
                (b'*', None) if next == Some(b'*') => {
                    let before = bytes[..at].last();
                    let after = bytes.get(at + 2);
                    let is_end = |beside: Option<&u8>, of_brace| match beside {
                        None | Some(b'/') => true,
                        Some(b',') => braces > 0,
                        Some(beside) => *beside == of_brace,
                    };
                    if !is_end(before, b'{') || !is_end(after, b'}') {
                        return Some(format!(
                            "the `**` at byte {at} stands for whole segments and needs a `/` on either side; \
                             write `*` for a part of one"
                        ));
                    }
                    at += 1;
                }
                _ => {}
            }
            at += 1;
        }
        None
    }
}
