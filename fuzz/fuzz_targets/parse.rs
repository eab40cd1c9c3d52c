//! Any bytes are parsed or rejected. The message fits in a line, and its place exists. All fields
//! of a parsed body can be read.
#![no_main]

use hubhooks::error::Error;
use hubhooks::event::Event;
use hubhooks::filter::{Criteria, Filter};
use hubhooks::text::{StringArena, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let strings = StringArena::default();
    let error = match decode(body) {
        Err(error) => error,
        Ok(text) => match Event::read(&text, &strings) {
            Err(error) => error,
            Ok(event) => {
                look_at(&event);
                return;
            }
        },
    };
    let Error::Payload(problem) = &error else {
        panic!("a body is refused as {error}");
    };
    let told = error.to_string();
    assert!(!told.chars().any(char::is_control), "{told:?}");
    assert!(told.chars().count() < 400, "{told:?}");
    let (line, column) = problem.place.expect("a place");
    let mut lines = body.split(|byte| *byte == b'\n');
    let found = lines.nth(line.checked_sub(1).expect("lines count from 1"));
    let found = found.unwrap_or_else(|| panic!("there is no line {line}"));
    // The end of a line is a valid place.
    assert!(column <= found.len() + 1, "{line}:{column}");
});

fn look_at(event: &Event<'_>) {
    let (class, (scope, action)) = (event.class(), event.effective());
    assert!(event.scope.starts_with(scope) && !action.is_empty() == !event.action.is_empty());
    assert!(!event.is_opening_post() || event.comment.is_some());
    if let Some(repo) = &event.repo {
        assert!(
            repo.namespace()
                .is_none_or(|namespace| repo.name.starts_with(namespace))
        );
    }
    if let Some(comment) = &event.comment {
        comment.mentions("my-bot");
    }
    for updated in &event.updated_refs {
        let kinds = [
            updated.branch().is_some(),
            updated.tag().is_some(),
            updated.pull_request().is_some(),
        ];
        assert!(kinds.into_iter().filter(|is_it| *is_it).count() < 2);
        assert!(!(updated.is_created() && updated.is_deleted()));
    }
    let files = event.updated_files.iter().flat_map(|files| files.iter());
    for (json, file) in files {
        assert!(event.text().contains(json) && !json.is_empty());
        assert!(json.len() >= file.path.len());
    }
    let filter = Filter::new(Criteria::default()).expect("a filter that matches all");
    assert!(filter.matches(event) && filter.explain(event).matched);
    assert!(!format!("{class:?} {event:?}").is_empty());
}
