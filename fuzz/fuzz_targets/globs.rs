//! A valid pattern matches like a second, independent implementation, which compares one character
//! at a time. No pattern takes long.
#![no_main]

use hubhooks::event::Event;
use hubhooks::filter::{Criteria, Filter};
use hubhooks::text::{StringArena, decode};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

#[derive(Arbitrary, Debug)]
struct Case {
    pattern: Vec<Sign>,
    text: Vec<Letter>,
}

/// A part of a pattern. Most parts are special characters.
#[derive(Arbitrary, Debug)]
enum Sign {
    Letter(Letter),
    Special(u8),
    AnyDepth,
    Other(char),
}

#[derive(Arbitrary, Debug)]
enum Letter {
    A,
    B,
    Slash,
    Other(char),
}

impl Letter {
    fn char(&self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
            Self::Slash => '/',
            Self::Other(other) => *other,
        }
    }
}

fuzz_target!(|case: Case| {
    let mut pattern = String::new();
    for sign in &case.pattern {
        match sign {
            Sign::Letter(letter) => pattern.push(letter.char()),
            Sign::Special(number) => {
                pattern.push(char::from(b"*?[]{}\\!^-,"[usize::from(*number) % 11]))
            }
            Sign::AnyDepth => pattern.push_str("**"),
            Sign::Other(other) => pattern.push(*other),
        }
    }
    let text: String = case.text.iter().map(Letter::char).collect();
    let criteria = Criteria {
        repo: Some(vec![pattern.clone()]),
        ..Criteria::default()
    };
    let Ok(filter) = Filter::new(criteria) else {
        return;
    };
    let body = json!({
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {"type": "model", "name": text},
    });
    let body = body.to_string();
    let (body, strings) = (decode(body.as_bytes()).expect("text"), StringArena::default());
    let event = Event::read(&body, &strings).expect("an event");
    let is_match = filter.matches(&event);
    assert_eq!(is_match, filter.explain(&event).matched);
    let Some(patterns) = without_braces(tokens(pattern.as_bytes())) else {
        return;
    };
    let is_expected = patterns
        .iter()
        .any(|pattern| fits(pattern, text.as_bytes()));
    assert_eq!(is_match, is_expected, "{pattern:?} {text:?}");
});

#[derive(Clone, Debug)]
enum Token {
    Byte(u8),
    AnyByte,
    Set { is_not: bool, ranges: Vec<(u8, u8)> },
    AnyInSegment,
    AnyDepth,
    Open,
    Comma,
    Close,
}

fn tokens(pattern: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut depth = 0;
    let mut left = pattern;
    while let Some((byte, rest)) = left.split_first() {
        left = rest;
        tokens.push(match byte {
            b'\\' => Token::Byte(taken(&mut left)),
            b'?' => Token::AnyByte,
            b'*' if left.first() == Some(&b'*') => {
                taken(&mut left);
                Token::AnyDepth
            }
            b'*' => Token::AnyInSegment,
            b'[' => set(&mut left),
            b'{' => {
                depth += 1;
                Token::Open
            }
            b',' if depth > 0 => Token::Comma,
            b'}' => {
                depth -= 1;
                Token::Close
            }
            byte => Token::Byte(*byte),
        });
    }
    tokens
}

fn taken(left: &mut &[u8]) -> u8 {
    let (byte, rest) = left.split_first().expect("a byte");
    *left = rest;
    *byte
}

/// A set, after its `[`.
fn set(left: &mut &[u8]) -> Token {
    let is_not = matches!(left.first(), Some(b'!' | b'^'));
    if is_not {
        taken(left);
    }
    let member = |left: &mut &[u8]| match taken(left) {
        b'\\' => taken(left),
        byte => byte,
    };
    let mut ranges = Vec::new();
    while ranges.is_empty() || left[0] != b']' {
        let low = member(left);
        if left[0] == b'-' && left.get(1).is_some_and(|byte| *byte != b']') {
            taken(left);
            ranges.push((low, member(left)));
        } else {
            ranges.push((low, low));
        }
    }
    taken(left);
    Token::Set { is_not, ranges }
}

/// One pattern for each choice of alternatives; None if there are too many to try.
fn without_braces(pattern: Vec<Token>) -> Option<Vec<Vec<Token>>> {
    let mut done = Vec::new();
    let mut left = vec![pattern];
    while let Some(pattern) = left.pop() {
        if left.len() + done.len() > 64 {
            return None;
        }
        match alternatives(&pattern) {
            Some(alternatives) => left.extend(alternatives),
            None => done.push(pattern),
        }
    }
    Some(done)
}

/// The alternatives of the first brace, as patterns.
fn alternatives(pattern: &[Token]) -> Option<Vec<Vec<Token>>> {
    let open = pattern
        .iter()
        .position(|token| matches!(token, Token::Open))?;
    let mut depth = 0;
    let mut starts = vec![open + 1];
    for (at, token) in pattern.iter().enumerate().skip(open) {
        match token {
            Token::Open => depth += 1,
            Token::Comma if depth == 1 => starts.push(at + 1),
            Token::Close => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let ends = starts.iter().skip(1).map(|start| start - 1).chain([at]);
            let joined = starts.iter().zip(ends).map(|(start, end)| {
                [&pattern[..open], &pattern[*start..end], &pattern[at + 1..]].concat()
            });
            return Some(joined.collect());
        }
    }
    None
}

/// Return true if a pattern without alternatives matches.
fn fits(pattern: &[Token], text: &[u8]) -> bool {
    let Some((token, rest)) = pattern.split_first() else {
        return text.is_empty();
    };
    let is_one = |is_it: &dyn Fn(u8) -> bool| {
        text.split_first()
            .is_some_and(|(byte, text)| is_it(*byte) && fits(rest, text))
    };
    match token {
        Token::Byte(byte) => is_one(&|found| found == *byte),
        Token::AnyByte => is_one(&|found| found != b'/'),
        Token::Set { is_not, ranges } => is_one(&|found| {
            let is_member = ranges
                .iter()
                .any(|(low, high)| (*low..=*high).contains(&found));
            found != b'/' && is_member != *is_not
        }),
        Token::AnyInSegment => {
            let end = text.iter().position(|byte| *byte == b'/');
            (0..=end.unwrap_or(text.len())).any(|at| fits(rest, &text[at..]))
        }
        Token::AnyDepth => match rest {
            [] => true,
            // Any number of segments, also none.
            [Token::Byte(b'/'), rest @ ..] => {
                let mut starts = (0..text.len()).filter(|at| text[*at] == b'/');
                fits(rest, text) || starts.any(|at| fits(rest, &text[at + 1..]))
            }
            rest => panic!("`**` before {rest:?}"),
        },
        Token::Open | Token::Comma | Token::Close => unreachable!(),
    }
}
