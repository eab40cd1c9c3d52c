//! The secret of a request: its place, its check, and that it is never shown.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use hubhooks::error::Error;
use hubhooks::secret::Verifier;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

fn verify(verifier: &Verifier, headers: &Headers, query: Option<&str>) -> Result<(), Error> {
    let headers = headers.iter().map(|(name, value)| (&**name, &**value));
    verifier.verify_request(headers, query.map(str::as_bytes))
}

#[track_caller]
fn assert_outcome(result: &Result<(), Error>, expected: &str) {
    let outcome = match result {
        Ok(()) => "ok",
        Err(Error::SecretMissing) => "missing",
        Err(Error::SecretMismatch) => "mismatch",
        Err(other) => panic!("{other}"),
    };
    assert_eq!(outcome, expected);
}

#[test]
fn table() {
    let keys = ["secrets", "headers", "query", "value", "outcome", "error"];
    common::each_row("secrets", &keys, |row| {
        let verifier = match Verifier::new(row.strings("secrets")) {
            Ok(verifier) => verifier,
            Err(error) => return assert_eq!(Some(&*error.to_string()), row.get("error").as_str()),
        };
        assert!(!row.has("error"), "expected an error");
        if row.has("value") {
            let value = row.get("value").as_str().map(str::as_bytes);
            return assert_outcome(&verifier.verify(value), row.str("outcome"));
        }
        let headers = row
            .list("headers")
            .map(|pair| {
                let text = |at: usize| pair[at].as_str().expect("a pair of strings").into();
                (text(0), text(1))
            })
            .collect();
        let query = row.get("query").as_str();
        assert_outcome(&verify(&verifier, &headers, query), row.str("outcome"));
    });
}

#[test]
fn non_text_bytes_are_a_wrong_secret() {
    let verifier = Verifier::new(["right"]).expect("a secret");
    let headers = vec![(b"X-Webhook-Secret".to_vec(), b"\xff\xfe".to_vec())];
    assert_outcome(&verify(&verifier, &headers, None), "mismatch");
    assert_outcome(
        &verify(&verifier, &Vec::new(), Some("secret=%FF%FE")),
        "mismatch",
    );
}

#[test]
fn debug_shows_no_secret() {
    let verifier = Verifier::new(["hunter2", "correct-horse"]).expect("two secrets");
    assert_eq!(format!("{verifier:?}"), "Verifier(2 secrets, redacted)");
    let verifier = Verifier::new(["hunter2"]).expect("one secret");
    assert_eq!(format!("{verifier:#?}"), "Verifier(1 secret, redacted)");
}

#[test]
fn errors_show_no_secret() {
    let error = Verifier::new(["hunter2", "pässword"]).expect_err("not ASCII");
    assert!(!format!("{error} {error:?}").contains("ssword"));
}

/// One file compares secrets, and the core does not use the interpreter.
#[test]
fn only_the_right_files_name_these_crates() {
    let mut files = Vec::new();
    find(&common::root().join("src"), &mut files);
    assert!(files.len() > 5, "the sources are found");
    for file in files {
        let source = fs::read_to_string(&file).expect("a source can be read");
        let place = file
            .strip_prefix(common::root())
            .expect("a file of the project")
            .to_owned();
        let names = |name: &str| {
            source
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == name)
        };
        assert!(
            !names("subtle") || place == Path::new("src/secret.rs"),
            "{} names subtle",
            place.display()
        );
        if !place.starts_with("src/python") {
            assert!(
                !names("pyo3") && !names("pythonize"),
                "{} names the interpreter",
                place.display()
            );
        }
    }
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Few characters, so that equal texts, prefixes and escapes are frequent.
const TEXT: &str = "[ab%+ 2]{1,4}";

proptest! {
    #[test]
    fn only_the_secret_is_accepted(
        secrets in prop::collection::vec(TEXT, 1..4),
        value in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..4),
            TEXT.prop_map(String::into_bytes),
        ],
    ) {
        let Ok(verifier) = Verifier::new(&secrets) else {
            return Ok(());
        };
        let is_secret = secrets
            .iter()
            .any(|secret| secret.trim().as_bytes() == value.trim_ascii());
        prop_assert_eq!(verifier.verify(Some(&value)).is_ok(), is_secret);
        let headers = vec![(b"x-webhook-secret".to_vec(), value)];
        prop_assert_eq!(verify(&verifier, &headers, Some("secret=a")).is_ok(), is_secret);
    }

    #[test]
    fn encoded_secret_in_the_query_is_accepted(secret in "[!-~]{1,12}", others in "[ab=&]{0,6}") {
        let verifier = Verifier::new([&secret]).expect("a secret");
let encoded = utf8_percent_encode(&secret, NON_ALPHANUMERIC);
        let query = format!("?{others}&secret={encoded}");
        prop_assert!(verify(&verifier, &Vec::new(), Some(&query)).is_ok());
    }

    #[test]
    fn any_query_is_accepted_or_rejected(query in any::<String>()) {
        let verifier = Verifier::new(["not in there"]).expect("a secret");
        prop_assert!(verify(&verifier, &Vec::new(), Some(&query)).is_err());
    }
}
