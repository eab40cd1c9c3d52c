//! The tables of cases in `tests/fixtures`, which pytest reads too, and the sample deliveries.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::collections::HashSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use serde_json::{Map, Value};

/// One row of a table.
pub(crate) struct Row(Map<String, Value>);

impl Row {
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The value of a key; null where the row has none.
    pub(crate) fn get(&self, key: &str) -> &Value {
        self.0.get(key).unwrap_or(&Value::Null)
    }

    #[track_caller]
    pub(crate) fn str(&self, key: &str) -> &str {
        match self.get(key) {
            Value::String(text) => text,
            other => panic!("expected a string `{key}`, found {other}"),
        }
    }

    #[track_caller]
    pub(crate) fn strings(&self, key: &str) -> Vec<&str> {
        self.list(key)
            .map(|item| item.as_str().expect("expected strings"))
            .collect()
    }

    #[track_caller]
    pub(crate) fn list(&self, key: &str) -> impl Iterator<Item = &Value> {
        match self.get(key) {
            Value::Array(items) => items.iter(),
            other => panic!("expected an array `{key}`, found {other}"),
        }
    }

    /// The pairs of an object, or none where the row has no such key.
    #[track_caller]
    pub(crate) fn object(&self, key: &str) -> impl Iterator<Item = (&str, &Value)> {
        match self.get(key) {
            Value::Null => None,
            Value::Object(pairs) => Some(pairs),
            other => panic!("expected an object `{key}`, found {other}"),
        }
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value))
    }
}

/// Run a check on every row of `tests/fixtures/<table>.json`, then name the rows that failed.
///
/// A row may have no keys but these: a misspelt one would go unchecked.
#[track_caller]
pub(crate) fn each_row(table: &str, keys: &[&str], check: impl Fn(&Row)) {
    let text = fs::read_to_string(root().join(format!("tests/fixtures/{table}.json")))
        .expect("the table can be read");
    let rows: Vec<Map<String, Value>> = serde_json::from_str(&text).expect("the table is JSON");
    let mut names = HashSet::new();
    let mut failed = Vec::new();
    for row in rows {
        let row = Row(row);
        let name = row.str("name");
        assert!(
            names.insert(name.to_owned()),
            "{table}.json has two rows `{name}`"
        );
        for key in row.0.keys() {
            assert!(
                key == "name" || keys.contains(&&**key),
                "row `{name}` has an unknown key `{key}`"
            );
        }
        if catch_unwind(AssertUnwindSafe(|| check(&row))).is_err() {
            failed.push(format!("`{name}`"));
        }
    }
    assert!(
        failed.is_empty(),
        "failed in {table}.json: {}",
        failed.join(", ")
    );
}

/// The body of a sample delivery.
pub(crate) fn sample(name: &str) -> Value {
    let path = root().join(format!("python/hubhooks/samples/{name}.json"));
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("the sample is JSON")
}

/// The body that a row asks for: its `sample`, with `set` and `drop` applied.
pub(crate) fn body(row: &Row) -> String {
    let mut body = sample(row.str("sample"));
    for (path, value) in row.object("set") {
        put(&mut body, path, value.clone());
    }
    if row.has("drop") {
        for path in row.strings("drop") {
            remove(&mut body, path);
        }
    }
    body.to_string()
}

/// Set the value at a dotted path such as `updatedRefs.0.newSha`; the last piece may be new.
#[track_caller]
fn put(body: &mut Value, path: &str, value: Value) {
    let (parent, last) = parent(body, path);
    match parent {
        Value::Array(items) => {
            let index: usize = last.parse().expect("an index");
            if index == items.len() {
                items.push(value);
            } else {
                items[index] = value;
            }
        }
        Value::Object(pairs) => {
            pairs.insert(last.to_owned(), value);
        }
        other => panic!("nothing can be set in {other} at `{path}`"),
    }
}

#[track_caller]
fn remove(body: &mut Value, path: &str) {
    let (parent, last) = parent(body, path);
    let removed = match parent {
        Value::Object(pairs) => pairs.shift_remove(last),
        other => panic!("nothing can be dropped from {other} at `{path}`"),
    };
    assert!(removed.is_some(), "there is no `{path}` to drop");
}

#[track_caller]
fn parent<'v, 'p>(body: &'v mut Value, path: &'p str) -> (&'v mut Value, &'p str) {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut node = body;
    for piece in parents.split('.').filter(|piece| !piece.is_empty()) {
        node = match node {
            Value::Array(items) => items.get_mut(piece.parse::<usize>().expect("an index")),
            Value::Object(pairs) => pairs.get_mut(piece),
            _ => None,
        }
        .unwrap_or_else(|| panic!("there is no `{piece}` on the way to `{path}`"));
    }
    (node, last)
}

/// The folder of the project.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
