//! A body is an event if and only if `serde_json` parses it and it has the required fields. The
//! fields equal those that `serde_json` finds under the names of the Hub.
#![no_main]

use hubhooks::event::Event;
use hubhooks::text::{StringArena, decode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|body: &[u8]| {
    let Ok(text) = decode(body) else { return };
    let strings = StringArena::default();
    let event = Event::read(&text, &strings);
    let value = serde_json::from_str::<Value>(&text);
    match (event, value) {
        (Ok(event), Ok(value)) => compare(&event, &value),
        (Ok(event), Err(error)) => panic!("serde_json says {error}, we read {event:?}"),
        (Err(error), Ok(value)) if needed(&value).is_some() => panic!("{error} in {value}"),
        (Err(_), _) => {}
    }
});

/// The action and the scope, if both exist.
fn needed(value: &Value) -> Option<(&str, &str)> {
    let word = |value: &'_ Value, key: &str| value.get(key).and_then(Value::as_str).is_some();
    match &value["event"] {
        Value::String(event) => {
            let action = match event.as_str() {
                "add" => "create",
                "remove" => "delete",
                other => other,
            };
            Some((action, value["scope"].as_str()?))
        }
        event if word(event, "action") && word(event, "scope") => {
            Some((event["action"].as_str()?, event["scope"].as_str()?))
        }
        _ => None,
    }
}

fn compare(event: &Event<'_>, value: &Value) {
    assert_eq!(needed(value), Some((event.action, event.scope)));
    let text = |part: &Value, key: &str| part[key].as_str().map(str::to_owned);
    if let Some(repo) = &event.repo {
        let part = &value["repo"];
        assert_eq!(text(part, "type").as_deref(), Some(repo.r#type));
        assert_eq!(text(part, "name").as_deref(), Some(repo.name));
        assert_eq!(part["private"].as_bool(), repo.private);
        assert_eq!(text(part, "headSha").as_deref(), repo.head_sha);
        assert_eq!(text(part, "subdomain").as_deref(), repo.subdomain);
        let id = repo.id.map(str::to_owned);
        match &part["id"] {
            Value::Null => assert_eq!(id, None),
            Value::String(string) => assert_eq!(id.as_ref(), Some(string)),
            other => {
                let id: Value = serde_json::from_str(&id.expect("an id")).expect("JSON");
                assert_eq!(&id, other);
            }
        }
    } else {
        let part = &value["repo"];
        assert!(
            text(part, "type").is_none() || text(part, "name").is_none(),
            "{part}"
        );
    }
    if let Some(discussion) = &event.discussion {
        let part = &value["discussion"];
        assert_eq!(part["title"].as_str(), Some(discussion.title));
        assert_eq!(part["status"].as_str(), Some(discussion.status));
        assert_eq!(part["num"].as_u64(), Some(discussion.num));
        assert_eq!(
            part["isPullRequest"].as_bool(),
            Some(discussion.is_pull_request)
        );
    }
    if let Some(comment) = &event.comment {
        let part = &value["comment"];
        assert!(part.is_object());
        assert_eq!(
            part["content"].as_str().unwrap_or_default(),
            comment.content
        );
        assert_eq!(part["hidden"].as_bool().unwrap_or_default(), comment.hidden);
    }
    if let Some(files) = &event.updated_files {
        let parts = value["updatedFiles"].as_array().expect("a list");
        let mut parts = parts
            .iter()
            .filter(|part| part["path"].is_string() && part["action"].is_string());
        for (json, file) in files.iter() {
            let part = parts.next().expect("a file");
            assert_eq!(&serde_json::from_str::<Value>(json).expect("JSON"), part);
            assert_eq!(part["path"].as_str(), Some(&*file.path));
            assert_eq!(part["action"].as_str(), Some(&*file.action));
        }
        assert!(parts.next().is_none());
    }
    assert_eq!(
        event.updated_files_truncated,
        value["updatedFilesTruncated"].as_bool() == Some(true)
    );
}
