//! Rejected bodies and their messages, older and odd bodies, and every key of an event.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::Row;
use hubhooks::OwnedEvent;
use hubhooks::error::{Error, PayloadError};
use hubhooks::event::{
    Changes, Comment, DOCUMENTED_KEYS, Discussion, Event, MovedTo, Owner, Repo, UpdatedFile,
    UpdatedRef, Url, Webhook,
};
use hubhooks::text::decode;
use proptest::prelude::*;
use serde_json::{Value, json};

// ---- tables ---------------------------------------------------------------------------------

#[test]
fn rejected() {
    let keys = [
        "body", "body_hex", "build", "message", "line", "column", "path",
    ];
    common::each_row("rejected", &keys, |row| {
        let problem = error_of(&bytes(row));
        let place = problem.place.map(|(line, column)| json!([line, column]));
        assert_eq!(problem.to_string(), row.str("message"));
        assert_eq!(place, Some(json!([row.get("line"), row.get("column")])));
        assert_eq!(problem.path, row.str("path"));
    });
}

#[test]
fn owned_event_can_be_sent_to_a_thread() {
    let body = r#"{"event": {"action": "upd\u0061te", "scope": "repo.content"}, "x": "\ud800"}"#;
    let event = OwnedEvent::parse(body).expect("an event");
    let event = std::thread::spawn(|| event).join().expect("no panic");
    assert_eq!(event.event().action, "update");
    assert_eq!(event.raw(), body.as_bytes());
    assert_eq!(event.event().text(), body.replace("ud800", "uFFFD"));
}

#[test]
fn readings() {
    let keys = ["body", "sample", "set", "drop", "expect", "expect_python"];
    common::each_row("readings", &keys, |row| {
        let body = match row.get("body") {
            Value::String(body) => body.clone(),
            _ => common::body(row),
        };
        let read = view_of(body.as_bytes()).expect("an event");
        for (path, expected) in row.object("expect") {
            let found = path.split('.').try_fold(&read, |node, step| match node {
                Value::Array(items) => items.get(step.parse::<usize>().expect("an index")),
                node => node.get(step),
            });
            let found = found.unwrap_or_else(|| panic!("there is no `{path}` in {read}"));
            assert!(agrees(found, expected), "{path}: {found} is no {expected}");
        }
    });
}

/// Return true if a value is the expected one. Of an object only the named attributes are compared.
fn agrees(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(name, expected)| {
                let found = found.get(name).expect("an attribute of this name");
                agrees(found, expected)
            })
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found
                    .iter()
                    .zip(expected)
                    .all(|pair| agrees(pair.0, pair.1))
        }
        _ => found == expected,
    }
}

/// The body of a row in the table of rejected bodies.
fn bytes(row: &Row) -> Vec<u8> {
    if row.has("body") {
        return row.str("body").into();
    }
    if row.has("body_hex") {
        let digits = row.str("body_hex").as_bytes().chunks(2);
        return digits
            .map(|pair| {
                let pair = std::str::from_utf8(pair).expect("digits");
                u8::from_str_radix(pair, 16).expect("hexadecimal digits")
            })
            .collect();
    }
    let build = row.get("build");
    let text = |key: &str| build[key].as_str().expect("a string");
    let times = build["times"].as_u64().expect("a number");
    let repeated = text("repeat").repeat(usize::try_from(times).expect("a length"));
    [text("prefix"), &repeated, text("suffix")].concat().into()
}

#[track_caller]
fn error_of(body: &[u8]) -> PayloadError {
    match view_of(body) {
        Err(Error::Payload(problem)) => problem,
        Err(other) => panic!("expected a problem with the body, found: {other}"),
        Ok(read) => panic!("expected an error, read {read}"),
    }
}

// ---- every attribute of an event, as JSON ---------------------------------------------------

/// Parse a body into all attributes that the Python classes have, under their names.
fn view_of(body: &[u8]) -> Result<Value, Error> {
    let event = OwnedEvent::parse(body)?;
    assert_eq!(event.raw(), body);
    assert_eq!(event.event().text(), decode(body)?);
    Ok(view(event.event()))
}

fn view(event: &Event<'_>) -> Value {
    let files = event.updated_files.iter().flat_map(|files| files.iter());
    json!({
        "class": event.class().name(),
        "action": event.action,
        "scope": event.scope,
        "effective": event.effective(),
        "is_known": event.is_known(),
        "is_opening_post": event.is_opening_post(),
        "repo": event.repo.as_ref().map(repo),
        "discussion": event.discussion.as_ref().map(discussion),
        "comment": event.comment.as_ref().map(comment),
        "webhook": event.webhook.as_ref().map(|Webhook { id, version }| json!({
            "id": id, "version": version,
        })),
        "moved_to": event.moved_to.as_ref().map(|MovedTo { name, owner }| json!({
            "name": name, "owner": owner.as_ref().map(self::owner),
        })),
        "updated_refs": event.updated_refs.iter().map(updated_ref).collect::<Value>(),
        "updated_files": files.map(|(json, file)| updated_file(json, &file)).collect::<Value>(),
        "updated_files_truncated": event.updated_files_truncated,
    })
}

// Each part is destructured, so that a new field does not compile until it is tested.

fn repo(part: &Repo<'_>) -> Value {
    let Repo {
        r#type,
        name,
        id,
        private,
        url,
        owner,
        head_sha,
        subdomain,
        tags,
        gitaly_uid,
    } = part;
    json!({
        "type": r#type,
        "name": name,
        "namespace": part.namespace(),
        "id": id,
        "private": private,
        "url": url.as_ref().map(self::url),
        "owner": owner.as_ref().map(self::owner),
        "head_sha": head_sha,
        "subdomain": subdomain,
        "tags": tags,
        "gitaly_uid": gitaly_uid,
    })
}

fn url(Url { web, api }: &Url<'_>) -> Value {
    json!({ "web": web, "api": api })
}

fn owner(Owner { id }: &Owner<'_>) -> Value {
    json!({ "id": id })
}

fn discussion(part: &Discussion<'_>) -> Value {
    let Discussion {
        id,
        title,
        url,
        status,
        author,
        num,
        is_pull_request,
        changes,
        pinned,
    } = part;
    let changes = changes.as_ref().map(
        |Changes {
             base,
             merge_commit_id,
         }| json!({ "base": base, "merge_commit_id": merge_commit_id }),
    );
    json!({
        "id": id,
        "title": title,
        "url": url.as_ref().map(self::url),
        "status": status,
        "author": author.as_ref().map(owner),
        "num": num,
        "is_pull_request": is_pull_request,
        "changes": changes,
        "pinned": pinned,
    })
}

fn comment(part: &Comment<'_>) -> Value {
    let Comment {
        id,
        author,
        content,
        hidden,
        url,
    } = part;
    // This only checks that any text is accepted.
    part.mentions(content);
    json!({
        "id": id,
        "author": author.as_ref().map(owner),
        "content": content,
        "hidden": hidden,
        "url": url.as_ref().map(self::url),
    })
}

fn updated_ref(part: &UpdatedRef<'_>) -> Value {
    let UpdatedRef {
        r#ref,
        old_sha,
        new_sha,
    } = part;
    json!({
        "ref": r#ref,
        "old_sha": old_sha,
        "new_sha": new_sha,
        "branch": part.branch(),
        "tag": part.tag(),
        "pull_request": part.pull_request(),
        "is_created": part.is_created(),
        "is_deleted": part.is_deleted(),
    })
}

fn updated_file(json: &str, part: &UpdatedFile<'_>) -> Value {
    assert!(json.starts_with('{') && json.ends_with('}'));
    let UpdatedFile {
        path,
        action,
        xet_hash,
        size,
    } = part;
    json!({ "path": path, "action": action, "xet_hash": xet_hash, "size": size })
}

// ---- the samples -----------------------------------------------------------------------------

fn sample_names() -> Vec<String> {
    let folder = common::root().join("python/hubhooks/samples");
    let files = fs::read_dir(folder).expect("the samples can be listed");
    let mut names: Vec<_> = files
        .map(|file| file.expect("a file").file_name())
        .filter_map(|name| Some(name.to_str()?.strip_suffix(".json")?.to_owned()))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "the samples are found");
    names
}

fn samples() -> Vec<(String, Value)> {
    let with_body = |name: String| {
        let body = common::sample(&name);
        (name, body)
    };
    sample_names().into_iter().map(with_body).collect()
}

/// The JSON pointers to all values that are neither objects nor arrays.
fn leaves(value: &Value, pointer: &str) -> Vec<String> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(key, value)| leaves(value, &format!("{pointer}/{key}")))
            .collect(),
        Value::Array(items) => (0..)
            .zip(items)
            .flat_map(|(index, value)| leaves(value, &format!("{pointer}/{index}")))
            .collect(),
        _ => vec![pointer.to_owned()],
    }
}

/// Another value of the same type, or a string instead of null.
fn changed(value: &Value) -> Value {
    match value {
        Value::Bool(value) => (!value).into(),
        Value::Number(number) => (number.as_u64().expect("a whole number") + 1).into(),
        _ => CHANGED.into(),
    }
}

const CHANGED: &str = "changed";

fn strings_in(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(strings_in).collect(),
        Value::Object(members) => members.values().flat_map(strings_in).collect(),
        _ => vec![],
    }
}

#[test]
fn every_value_of_every_sample_is_read() {
    for (name, sample) in samples() {
        let before = view_of(sample.to_string().as_bytes()).expect("a sample is an event");
        for pointer in leaves(&sample, "") {
            if pointer.starts_with("/updatedConfig") {
                continue; // a part that only Python reads
            }
            let mut body = sample.clone();
            let leaf = body.pointer_mut(&pointer).expect("it was just found");
            *leaf = changed(leaf);
            let is_text = leaf.is_string();
            let after = view_of(body.to_string().as_bytes()).expect("still an event");
            assert_ne!(before, after, "{name}: nobody reads {pointer}");
            if is_text {
                let strings = strings_in(&after);
                assert!(strings.contains(&CHANGED), "{name}: {pointer} is not kept");
            }
        }
    }
}

#[test]
fn every_attribute_is_in_some_sample() {
    let mut all = BTreeSet::new();
    let mut filled = BTreeSet::new();
    for (_, sample) in samples() {
        let read = view_of(sample.to_string().as_bytes()).expect("a sample is an event");
        note(&read, String::new(), &mut all, &mut filled);
    }
    let never: Vec<_> = all.difference(&filled).map(String::as_str).collect();
    assert_eq!(never, ["/comment/url/api"], "None in all samples");
}

/// Collect the attributes below a value, and those that are not null.
fn note(value: &Value, path: String, all: &mut BTreeSet<String>, filled: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => members
            .iter()
            .for_each(|(name, value)| note(value, format!("{path}/{name}"), all, filled)),
        Value::Array(items) => {
            for item in items {
                note(item, path.clone(), all, filled);
            }
        }
        _ => {}
    }
    if !value.is_null() {
        filled.insert(path.clone());
    }
    all.insert(path);
}

#[test]
fn documented_keys_match_the_samples() {
    let bodies = samples();
    let sent: BTreeSet<&str> = bodies
        .iter()
        .flat_map(|(_, body)| body.as_object().expect("an object").keys())
        .map(String::as_str)
        .collect();
    assert_eq!(sent, BTreeSet::from(DOCUMENTED_KEYS));
}

#[test]
fn truncated_body_is_rejected() {
    for name in [
        "discussion.comment.create.older",
        "repo.content.update.bucket",
        "repo.move.v2",
        "repo.config.update",
    ] {
        let body = common::sample(name).to_string();
        for end in 0..body.len() {
            let problem = error_of(&body.as_bytes()[..end]);
            assert_eq!(
                problem.what, "expected more, found the end of the body",
                "{name} {end}"
            );
            assert_eq!(problem.place, Some((1, end)), "{name}");
        }
    }
}

// ---- cases outside the tables -----------------------------------------------------------------

#[test]
fn long_numbers_in_text_are_text() {
    for text in [
        "7".repeat(70_000),
        format!("pi is {}", "3".repeat(70_000)),
        format!("a {}", "-".repeat(140_000)),
        format!("[1,{}]", "2".repeat(70_000)),
        format!("x{}", "1".repeat(1 << 20)),
    ] {
        let mut body = common::sample("discussion.comment.create");
        body["comment"]["content"] = text.as_str().into();
        let read = view_of(body.to_string().as_bytes());
        let read = read.unwrap_or_else(|error| panic!("{}...: {error}", &text[..8]));
        assert_eq!(read["comment"]["content"], text);
    }
}

#[test]
fn longest_allowed_number_is_read() {
    let body = |zeros: usize| {
        let number = format!("0.{}1", "0".repeat(zeros));
        format!(r#"{{"event": {{"action": "a", "scope": "b"}}, "x": {number}}}"#)
    };
    assert!(view_of(body(65_533).as_bytes()).is_ok());
    let problem = error_of(body(65_534).as_bytes());
    assert_eq!(
        problem.what,
        "expected a number of at most 65536 characters"
    );
}

#[test]
fn messages_are_one_line() {
    for key in [r"a\nb", r"\u001b[31m", r"\r", r"\u0085", r"\u2028"] {
        let problem = error_of(format!(r#"{{"{key}": NaN}}"#).as_bytes());
        let message = problem.to_string();
        let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
        assert!(!message.contains(breaks), "{message:?}");
    }
}

// ---- properties ------------------------------------------------------------------------------

/// Pieces of bodies, valid and invalid.
const PIECES: [&str; 42] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    " ",
    "\n",
    "null",
    "true",
    "7",
    "-",
    "1e999",
    "1.5",
    "NaN",
    "18446744073709551616",
    "\"\"",
    "\"a\"",
    r#""\ud800""#,
    r#""\ud83c\udf0a""#,
    r#""\u0041""#,
    r"\u",
    "é",
    r#""event":"#,
    r#""action":"#,
    r#""scope":"#,
    r#""repo":"#,
    r#""discussion":"#,
    r#""comment":"#,
    r#""id":"#,
    r#""type":"#,
    r#""name":"#,
    r#""movedTo":"#,
    r#""updatedRefs":"#,
    r#""updatedFiles":"#,
    r#""updatedFiles":[1e999],"#,
    r#""updatedFiles":[],"#,
    r#"{"path":"a","action":"add","size":7}"#,
    r#"{"action": "update", "scope": "repo.content"}"#,
    r#"{"event":"add","scope":"repo","#,
];

fn pieces() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&PIECES), 0..6).prop_map(|pieces| pieces.concat())
}

/// Any JSON value as text. Odd ones are more frequent than by chance.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| json!(value).to_string()),
        any::<String>().prop_map(|value| json!(value).to_string()),
        prop::sample::select(vec![
            "1e999",
            "-1e999",
            "18446744073709551616",
            r#""\ud800""#,
            r#""\udc00\ud800\udc00\n""#,
        ])
        .prop_map(str::to_owned),
    ];
    let key = prop_oneof![
        prop::sample::select(&DOCUMENTED_KEYS).prop_map(str::to_owned),
        prop::sample::select(vec![
            "id", "name", "type", "ref", "path", "action", "num", "web"
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ]
    .prop_map(|key| json!(key).to_string());
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let member = (key.clone(), inner.clone()).prop_map(|(key, value)| format!("{key}:{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 0..4)
                .prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

/// Parse a body in all ways. A valid event must also be a valid JSON value, for `to_dict`.
fn exercise(body: &[u8]) {
    let Ok(read) = view_of(body) else { return };
    let text = decode(body).expect("it was just decoded");
    let value: Value = serde_json::from_str(&text).expect("it was just read");
    assert!(value.is_object());
    assert_eq!(
        view_of(value.to_string().as_bytes()),
        Ok(read),
        "it reads the same however it is written"
    );
}

proptest! {
    #[test]
    fn decoding_keeps_the_length(body in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(text) = decode(&body) {
            prop_assert_eq!(text.len(), body.len());
        }
    }

    #[test]
    fn decoding_escapes_leaves_no_lone_surrogate(
        text in r"(\\|u|\\u|[dD][89a-fA-F]|[0-9a-f]{2}|\\ud83c\\udf0a|\\uD800| ){0,12}",
    ) {
        let decoded = decode(text.as_bytes()).expect("it is UTF-8");
        prop_assert_eq!(decoded.len(), text.len());
        let error = serde_json::from_str::<String>(&format!("\"{decoded}\"")).err();
        let is_lone = error.is_some_and(|error| error.to_string().contains("surrogate"));
        prop_assert!(!is_lone, "{decoded}");
    }

    #[test]
    fn any_bytes_are_read_or_rejected(body in prop::collection::vec(any::<u8>(), 0..64)) {
        exercise(&body);
    }

    #[test]
    fn any_pieces_are_read_or_rejected(body in pieces(), whole in any::<bool>()) {
        let event = r#""event": {"action": "create", "scope": "discussion"}"#;
        exercise(&if whole { format!("{{{body}{event}}}") } else { body }.into_bytes());
    }

    #[test]
    fn any_damaged_sample_is_read_or_rejected(
        name in prop::sample::select(sample_names()),
        damages in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..8, pieces()), 1..4),
    ) {
        let mut body = common::sample(&name).to_string();
        for (at, length, piece) in damages {
            let start = at.index(body.len());
            let end = (start + length).min(body.len());
            if body.is_char_boundary(start) && body.is_char_boundary(end) {
                body.replace_range(start..end, &piece);
            }
        }
        exercise(body.as_bytes());
    }

    #[test]
    fn any_value_in_a_sample_is_read_or_rejected(
        name in prop::sample::select(sample_names()),
        at in any::<prop::sample::Index>(),
        value in json_text(),
    ) {
        let mut body = common::sample(&name);
        let leaves = leaves(&body, "");
        let leaf = body.pointer_mut(&leaves[at.index(leaves.len())]).expect("it was just found");
        *leaf = "put it here".into();
        exercise(body.to_string().replace("\"put it here\"", &value).as_bytes());
    }

    #[test]
    fn duplicate_key_is_read_or_rejected(
        name in prop::sample::select(sample_names()),
        key in prop::sample::select(&DOCUMENTED_KEYS),
        first in json_text(),
        second in json_text(),
    ) {
        let body = common::sample(&name).to_string();
        let rest = body.strip_prefix('{').expect("an object");
        exercise(format!("{{\"{key}\":{first},{rest}").as_bytes());
        exercise(format!("{{\"{key}\":{first},\"{key}\":{second},{rest}").as_bytes());
        let start = body.strip_suffix('}').expect("an object");
        exercise(format!("{start},\"{key}\":{first},\"{key}\":{second}}}").as_bytes());
    }

    #[test]
    fn unknown_values_are_kept(action in any::<String>(), scope in any::<String>(), kind in any::<String>()) {
        let mut body = common::sample("repo.create");
        body["event"] = json!({ "action": action, "scope": scope });
        body["repo"]["type"] = kind.as_str().into();
        let read = view_of(body.to_string().as_bytes()).expect("an event");
        prop_assert_eq!(&read["action"], &action);
        prop_assert_eq!(&read["scope"], &scope);
        prop_assert_eq!(&read["repo"]["type"], &kind);
    }
}
