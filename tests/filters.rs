//! Which events a filter matches, its explanations, and invalid filters.

mod common;

use hubhooks::OwnedEvent;
use hubhooks::event::Class;
use hubhooks::filter::{Criteria, Filter, ScopeOrClass, match_filters};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Criteria from the keyword arguments of the Python class.
fn criteria<'r>(arguments: impl Iterator<Item = (&'r str, &'r Value)>) -> Criteria {
    let mut criteria = Criteria::default();
    for (name, value) in arguments {
        match name {
            "scopes" => {
                criteria.scopes = value
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(listened)
                    .collect();
            }
            "action" => criteria.action = Some(words(value)),
            "repo_type" => criteria.repo_type = Some(words(value)),
            "repo" => criteria.repo = Some(words(value)),
            "owner" => criteria.owner = Some(words(value)),
            "ref" => criteria.r#ref = Some(words(value)),
            "path" => criteria.path = Some(words(value)),
            "status" => criteria.status = Some(words(value)),
            "mention" => criteria.mention = Some(words(value)),
            "author" => criteria.author = Some(words(value)),
            "pull_request" => criteria.pull_request = value.as_bool(),
            "private" => criteria.private = value.as_bool(),
            _ => panic!("no criterion is named `{name}`"),
        }
    }
    criteria
}

fn listened(value: &Value) -> ScopeOrClass {
    match value {
        Value::String(scope) => ScopeOrClass::Scope(scope.clone()),
        _ => ScopeOrClass::Class(match value["class"].as_str().expect("a class") {
            "RepoEvent" => Class::Repo,
            "ContentEvent" => Class::Content,
            "ConfigEvent" => Class::Config,
            "DiscussionEvent" => Class::Discussion,
            "CommentEvent" => Class::Comment,
            "HubEvent" => Class::Other,
            other => panic!("no class is named `{other}`"),
        }),
    }
}

/// One value or a list of them.
fn words(value: &Value) -> Vec<String> {
    match value {
        Value::String(word) => vec![word.clone()],
        Value::Array(words) => words.iter().flat_map(self::words).collect(),
        other => panic!("expected words, found {other}"),
    }
}

#[test]
fn table() {
    let keys = [
        "filter", "sample", "set", "drop", "matches", "explain", "error", "warnings",
    ];
    common::each_row("filters", &keys, |row| {
        let filter = match Filter::new(criteria(row.object("filter"))) {
            Ok(filter) => filter,
            Err(error) => return assert_eq!(Some(&*error.to_string()), row.get("error").as_str()),
        };
        assert!(!row.has("error"), "expected an error");
        if row.has("warnings") {
            return assert_eq!(filter.value_warnings(), row.strings("warnings"));
        }
        let body = common::body(row);
        let event = OwnedEvent::parse(body).expect("the body is an event");
        let event = event.event();
        let explanation = filter.explain(event);
        assert_eq!(explanation.text, row.str("explain"));
        assert_eq!(filter.matches(event), row.get("matches") == true);
        assert_eq!(explanation.matched, filter.matches(event));
    });
}

#[test]
fn match_returns_positions_in_order() {
    let filter = |path: &str| {
        Filter::new(Criteria {
            path: Some(vec![path.into()]),
            ..Criteria::default()
        })
        .expect("a filter")
    };
    let filters = [filter("2026/**"), filter("*.txt"), filter("incoming/*")];
    let body = common::sample("repo.content.update.bucket").to_string();
    let event = OwnedEvent::parse(body).expect("the sample is an event");
    let event = event.event();
    assert_eq!(match_filters(event, &filters), [0, 2]);
}

#[test]
fn filters_are_compared_by_criteria() {
    let on = |scope: &str| {
        let scopes = vec![
            ScopeOrClass::Scope(scope.into()),
            ScopeOrClass::Class(Class::Comment),
        ];
        Filter::new(Criteria {
            scopes,
            ..Criteria::default()
        })
        .expect("a filter")
    };
    assert_eq!(on("repo"), on("repo"));
    assert_ne!(on("repo"), on("repo.*"));
    assert_eq!(
        on("repo").criteria().scopes[0],
        ScopeOrClass::Scope("repo".into())
    );
    assert_eq!(
        std::collections::HashSet::from([on("repo"), on("repo"), on("discussion")]).len(),
        2
    );
}

/// A simple model of `*`, `?`, `**` and braces: it expands the alternatives, and compares segment
/// by segment.
fn fits(pattern: &str, text: &str) -> bool {
    if let Some((before, rest)) = pattern.split_once('{') {
        let (inside, after) = rest.split_once('}').expect("braces are closed");
        return inside
            .split(',')
            .any(|one| fits(&format!("{before}{one}{after}"), text));
    }
    let pattern: Vec<_> = pattern.split('/').collect();
    let text: Vec<_> = text.split('/').collect();
    fits_segments(&pattern, &text)
}

fn fits_segments(pattern: &[&str], text: &[&str]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ["**"] => !text.is_empty(),
        ["**", rest @ ..] => (0..=text.len()).any(|skipped| fits_segments(rest, &text[skipped..])),
        [first, rest @ ..] => {
            !text.is_empty()
                && fits_within(first.as_bytes(), text[0].as_bytes())
                && fits_segments(rest, &text[1..])
        }
    }
}

fn fits_within(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            (0..=text.len()).any(|skipped| fits_within(rest, &text[skipped..]))
        }
        ([b'?', rest @ ..], [_, text @ ..]) => fits_within(rest, text),
        ([byte, rest @ ..], [other, text @ ..]) => byte == other && fits_within(rest, text),
        _ => false,
    }
}

fn path_matches(pattern: &str, path: &str) -> Option<bool> {
    let filter = Filter::new(Criteria {
        path: Some(vec![pattern.into()]),
        ..Criteria::default()
    })
    .ok()?;
    let mut body = common::sample("repo.content.update.bucket");
    body["updatedFiles"] = json!([{"path": path, "action": "add"}]);
    let body = body.to_string();
    let event = OwnedEvent::parse(body).expect("an event");
    let event = event.event();
    Some(filter.matches(event))
}

const SAMPLES: [&str; 9] = [
    "discussion.comment.create",
    "discussion.comment.update.hidden",
    "discussion.create.pull-request",
    "discussion.update.merged",
    "repo.config.update",
    "repo.content.update.bucket",
    "repo.content.update.bucket-truncated",
    "repo.content.update.pull-request",
    "repo.create.canonical",
];

prop_compose! {
    fn any_criteria()(
        scopes in prop::collection::vec(prop_oneof![
            "(repo|discussion)(\\.(content|config|comment|new))?(\\.\\*)?".prop_map(ScopeOrClass::Scope),
            prop::sample::select(vec![Class::Other, Class::Repo, Class::Content, Class::Discussion, Class::Comment])
                .prop_map(ScopeOrClass::Class),
        ], 0..3),
        action in word("create|update|move|new"),
        repo_type in word("model|dataset|bucket|new"),
        repo in word("ada-labs/\\*|\\*|tidebert"),
        owner in word("ada-labs|63fd9741b106ddc5cec15951"),
        r#ref in word("main|refs/pr/\\*|\\*\\*"),
        path in word("2026/\\*\\*|\\*\\.csv"),
        status in word("open|merged"),
        mention in word("my-bot|@My-Bot|nobody"),
        author in word("6409b816282dc50ee5b8f296|nobody"),
        pull_request in prop::option::weighted(0.2, any::<bool>()),
        private in prop::option::weighted(0.2, any::<bool>()),
    ) -> Criteria {
        Criteria { scopes, action, repo_type, repo, owner, r#ref, path, pull_request, status, mention, author, private }
    }
}

/// The fields of a body whose text the sender chooses.
const NAMES: [&str; 10] = [
    "/event/action",
    "/event/scope",
    "/repo/type",
    "/repo/name",
    "/repo/owner/id",
    "/discussion/status",
    "/discussion/author/id",
    "/comment/author/id",
    "/updatedRefs/0/ref",
    "/updatedFiles/0/path",
];

fn word(pattern: &'static str) -> impl Strategy<Value = Option<Vec<String>>> {
    prop::option::weighted(0.2, prop::collection::vec(pattern, 1..3))
}

proptest! {
    #[test]
    fn any_pattern_accepts_any_path(pattern in any::<String>(), path in any::<String>()) {
        path_matches(&pattern, &path);
    }

    #[test]
    fn special_characters_accept_any_path(pattern in "[ab*?\\[\\]{}\\\\,!^/-]{1,12}", path in "[ab/\\[\\]-]{0,8}") {
        path_matches(&pattern, &path);
    }

    #[test]
    fn patterns_match_as_documented(
        pattern in "([ab?]|\\*[ab/?]|\\{a,b[ab?]?\\}|/|/\\*\\*/){0,6}(\\*|/\\*\\*)?",
        path in "[ab]{1,2}(/[ab]{1,2}){0,4}",
    ) {
        if let Some(matches) = path_matches(&pattern, &path) {
            prop_assert_eq!(matches, fits(&pattern, &path));
        }
    }

    #[test]
    fn plain_patterns_are_compared_exactly(pattern in "[a-z/ .!,^-]{1,6}", path in "[a-z/ .!,^-]{0,6}") {
        prop_assume!(!pattern.starts_with('!'));
        prop_assert_eq!(path_matches(&pattern, &pattern), Some(true));
        prop_assert_eq!(path_matches(&pattern, &path), Some(pattern == path));
    }

    #[test]
    fn matching_and_explaining_agree(
        criteria in prop::collection::vec(any_criteria(), 1..8),
        sample in prop::sample::select(&SAMPLES),
        scope in prop::option::weighted(0.3, "(repo|discussion)\\.(content|comment|new)(\\.new)?"),
        action in prop::option::weighted(0.3, "create|update|new"),
        lost in prop::option::weighted(0.3, "repo|discussion|comment|updatedRefs"),
    ) {
        let mut body = common::sample(sample);
        if let Some(scope) = scope {
            body["event"]["scope"] = scope.into();
        }
        if let Some(action) = action {
            body["event"]["action"] = action.into();
        }
        if let Some(lost) = lost {
            body[lost] = 7.into();
        }
        let body = body.to_string();
        let event = OwnedEvent::parse(body).expect("an event");
        let event = event.event();
        let filters: Vec<_> = criteria.into_iter().filter_map(|criteria| Filter::new(criteria).ok()).collect();
        let matched = match_filters(event, &filters);
        for (at, filter) in filters.iter().enumerate() {
            let explanation = filter.explain(event);
            prop_assert_eq!(filter.matches(event), explanation.matched);
            prop_assert_eq!(matched.contains(&at), explanation.matched);
            prop_assert_eq!(explanation.text.starts_with("matches"), explanation.matched);
            prop_assert!(!explanation.text.ends_with(": "), "{}", explanation.text);
        }
    }

    #[test]
    fn explanation_is_one_line_for_any_name(
        criteria in any_criteria(),
        sample in prop::sample::select(&SAMPLES),
        places in prop::sample::subsequence(&NAMES[..], 0..NAMES.len()),
        name in "[\\x00-\\x1f\\x7f-\\x9f\u{2028}\u{202e}a/.]{1,6}",
    ) {
        let mut body = common::sample(sample);
        for place in places {
            if let Some(value) = body.pointer_mut(place) {
                *value = name.clone().into();
            }
        }
        let body = body.to_string();
        let event = OwnedEvent::parse(body).expect("an event");
        let event = event.event();
        let status = Some(vec![name.clone()]);
        for criteria in [Criteria { status, ..Criteria::default() }, criteria] {
            if let Ok(filter) = Filter::new(criteria) {
                let explanation = filter.explain(event);
                let breaks = |c: char| c.is_control() || "\u{2028}\u{202e}".contains(c);
                prop_assert!(!explanation.text.contains(breaks), "{:?}", explanation.text);
            }
        }
    }
}
