//! The work of a receiver for each request: check the secret, parse the body, find the handlers.
//!
//! Run with `cargo bench --no-default-features`.

use std::fs;
use std::hint::black_box;

use criterion::Criterion;
use hubhooks::event::{Class, Event};
use hubhooks::filter::{Criteria, Filter, ScopeOrClass, match_filters};
use hubhooks::secret::Verifier;
use hubhooks::text::{StringArena, decode};
use serde_json::{Value, json};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    secret(&mut criterion);
    read(&mut criterion);
    filter(&mut criterion);
    criterion.final_summary();
}

fn secret(criterion: &mut Criterion) {
    let verifier =
        Verifier::new(["a secret of an ordinary length", "the one before"]).expect("two secrets");
    let headers: [(&[u8], &[u8]); 4] = [
        (b"host", b"example.org"),
        (b"content-type", b"application/json"),
        (b"webhook-id", b"6a0acccf58103a6c83233b2f"),
        (b"x-webhook-secret", b"a secret of an ordinary length"),
    ];
    criterion.bench_function("verify a header", |bencher| {
        bencher.iter(|| verifier.verify_request(black_box(headers), None));
    });
    let query = b"secret=a+secret+of+an+ordinary%20length";
    criterion.bench_function("verify a query", |bencher| {
        bencher.iter(|| verifier.verify_request([], Some(black_box(query))));
    });
}

fn read(criterion: &mut Criterion) {
    for (name, body) in [
        ("read a discussion", discussion()),
        ("read 10,000 files", bucket()),
    ] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                let text = decode(black_box(body.as_bytes())).expect("text");
                Event::read(&text, &StringArena::default()).is_ok()
            });
        });
    }
}

fn filter(criterion: &mut Criterion) {
    let (discussion, bucket, strings) = (discussion(), bucket(), StringArena::default());
    let discussion = Event::read(&discussion, &strings).expect("an event");
    let bucket = Event::read(&bucket, &strings).expect("an event");

    // Most handlers of an app have filters for other events.
    let mixed: Vec<_> = (0..1000)
        .map(|at| match at % 4 {
            0 => on(
                "repo.content",
                Criteria {
                    r#ref: words("main"),
                    ..Criteria::default()
                },
            ),
            1 => on(
                "discussion",
                Criteria {
                    repo: words(&format!("team-{at}/*")),
                    ..Criteria::default()
                },
            ),
            2 => on(
                "discussion.*",
                Criteria {
                    mention: words(&format!("bot-{at}")),
                    ..Criteria::default()
                },
            ),
            _ => on(
                "discussion",
                Criteria {
                    status: words("open"),
                    ..Criteria::default()
                },
            ),
        })
        .collect();
    bench_matching(
        criterion,
        "match 1,000 mixed filters",
        &discussion,
        &mixed,
        250,
    );

    // The worst case: all criteria of all filters are checked.
    let all: Vec<_> = (0..1000)
        .map(|_| {
            Filter::new(Criteria {
                scopes: vec![ScopeOrClass::Class(Class::Discussion)],
                action: words("create"),
                repo_type: words("model"),
                repo: words("ada-labs/*"),
                owner: words("ada-labs"),
                status: words("open"),
                author: words("6409b816282dc50ee5b8f296"),
                pull_request: Some(true),
                private: Some(false),
                ..Criteria::default()
            })
            .expect("a filter")
        })
        .collect();
    bench_matching(
        criterion,
        "match 1,000 filters that all match",
        &discussion,
        &all,
        1000,
    );

    // No file matches, so every filter compares all files.
    let paths: Vec<_> = (0..10)
        .map(|at| {
            on(
                "repo.content",
                Criteria {
                    path: words(&format!("data/{at}/*.txt")),
                    ..Criteria::default()
                },
            )
        })
        .collect();
    bench_matching(
        criterion,
        "match 10 filters with 10,000 files",
        &bucket,
        &paths,
        0,
    );
}

fn bench_matching(
    criterion: &mut Criterion,
    name: &str,
    event: &Event<'_>,
    filters: &[Filter],
    count: usize,
) {
    assert_eq!(match_filters(event, filters).len(), count, "{name}");
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| match_filters(black_box(event), filters));
    });
}

fn on(scope: &str, criteria: Criteria) -> Filter {
    let scopes = vec![ScopeOrClass::Scope(scope.into())];
    Filter::new(Criteria { scopes, ..criteria }).expect("a filter")
}

#[expect(clippy::unnecessary_wraps, reason = "the type of a criterion")]
fn words(word: &str) -> Option<Vec<String>> {
    Some(vec![word.into()])
}

fn discussion() -> String {
    sample("discussion.create.pull-request").to_string()
}

fn bucket() -> String {
    let mut body = sample("repo.content.update.bucket");
    body["updatedFiles"] = (0..10_000)
        .map(|at| {
            json!({
                "path": format!("data/{}/part-{at:05}.parquet", at % 10),
                "action": "add",
                "xetHash": format!("{at:064x}"),
                "size": at * 1024,
            })
        })
        .collect();
    body.to_string()
}

/// A sample without white space, as the Hub sends it.
fn sample(name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/python/hubhooks/samples");
    let text = fs::read_to_string(format!("{folder}/{name}.json")).expect("a sample");
    serde_json::from_str(&text).expect("JSON")
}
