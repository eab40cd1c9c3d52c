//! Warnings about values that no documented event has, with the nearest documented value.

use super::documented::{ACTIONS, REPO_TYPES, STATUSES};
use super::reason::quoted;
use super::{Criteria, Criterion};

/// The similarity from which a word counts as a misspelling of another: `opened` of `open` does.
const CLOSE: f64 = 0.65;

/// Words of other products and of older deliveries, with the documented words.
const OTHER_NAMES: &[(Criterion, &str, &str)] = &[
    (Criterion::Action, "add", "create"),
    (Criterion::Action, "added", "create"),
    (Criterion::Action, "new", "create"),
    (Criterion::Action, "opened", "create"),
    (Criterion::Action, "commit", "update"),
    (Criterion::Action, "edit", "update"),
    (Criterion::Action, "edited", "update"),
    (Criterion::Action, "push", "update"),
    (Criterion::Action, "pushed", "update"),
    (Criterion::Action, "remove", "delete"),
    (Criterion::Action, "removed", "delete"),
    (Criterion::Action, "rename", "move"),
    (Criterion::Action, "renamed", "move"),
    (Criterion::Status, "reopened", "open"),
    (Criterion::Status, "resolved", "closed"),
];

/// The criteria whose values the Hub documents.
const WITH_VALUES: [(Criterion, &[&str]); 3] = [
    (Criterion::Action, ACTIONS),
    (Criterion::RepoType, REPO_TYPES),
    (Criterion::Status, STATUSES),
];

/// The first segment of a URL path on the Hub or of its API, for each type of repository.
const PREFIXES: [(&str, &str); 5] = [
    ("models", "model"),
    ("datasets", "dataset"),
    ("spaces", "space"),
    ("buckets", "bucket"),
    ("kernels", "kernel"),
];

/// Namespaces of refs, by their usual names.
const REF_NAMESPACES: [(&str, &str); 7] = [
    ("head", "heads"),
    ("heads", "heads"),
    ("tag", "tags"),
    ("tags", "tags"),
    ("pr", "pr"),
    ("prs", "pr"),
    ("convert", "convert"),
];

impl Criteria {
    /// Return a sentence for each value that no documented event has.
    pub(super) fn value_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for criterion in self.given() {
            for word in self.words(criterion).unwrap_or_default() {
                let warning = match WITH_VALUES.iter().find(|(known, _)| *known == criterion) {
                    Some((_, documented)) => undocumented(criterion, documented, word),
                    None => misshapen(criterion, word),
                };
                warnings.extend(warning);
            }
        }
        warnings
    }
}

/// An argument in Python's syntax, for messages.
fn argument(criterion: Criterion, value: &str) -> String {
    format!("`{}={value:?}`", criterion.name())
}

/// Warn about a value that the Hub does not document.
fn undocumented(criterion: Criterion, documented: &[&str], word: &str) -> Option<String> {
    if documented.contains(&word) {
        return None;
    }
    let hint = match meant(criterion, documented, word) {
        Some((criterion, value)) => format!("did you mean {}?", argument(criterion, value)),
        None => format!("known ones: {}", quoted(documented, "and")),
    };
    let given = argument(criterion, word);
    Some(format!("the Hub documents no {given}; {hint}"))
}

/// The nearest documented value. It can be a value of another criterion.
fn meant<'d>(
    criterion: Criterion,
    documented: &[&'d str],
    word: &str,
) -> Option<(Criterion, &'d str)> {
    let word = word.trim().to_lowercase();
    if let Some(value) = documented.iter().find(|value| **value == word) {
        return Some((criterion, value));
    }
    let is_other_name =
        |(of, name, _): &&(Criterion, &str, &str)| *of == criterion && *name == word;
    if let Some((_, _, value)) = OTHER_NAMES.iter().find(is_other_name) {
        return Some((criterion, value));
    }
    for (other, values) in WITH_VALUES {
        if let Some(value) = values.iter().find(|value| **value == word) {
            return Some((other, value));
        }
    }
    nearest(documented, &word).map(|value| (criterion, value))
}

fn nearest<'d>(documented: &[&'d str], word: &str) -> Option<&'d str> {
    documented
        .iter()
        .map(|value| (*value, strsim::normalized_damerau_levenshtein(value, word)))
        .filter(|(_, likeness)| *likeness >= CLOSE)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(value, _)| value)
}

/// Warn about a value in a form that no event has, such as a URL as the name of a repository.
fn misshapen(criterion: Criterion, word: &str) -> Option<String> {
    let given = argument(criterion, word);
    let (what, right) = match criterion {
        Criterion::Repo => ("a repository is named `owner/name`", right_repo(word)?),
        Criterion::Owner => ("an owner is one name, or an id", right_owner(word)?),
        Criterion::Ref => (
            "a ref is a branch, or begins with `refs/heads/`, `refs/tags/`, `refs/pr/` or `refs/convert/`",
            right_ref(word)?,
        ),
        Criterion::Path => (
            "a path begins with the first folder in the bucket",
            right_path(word)?,
        ),
        _ => return None,
    };
    let hint = if right.is_empty() {
        String::new()
    } else {
        format!("; did you mean {right}?")
    };
    Some(format!("{given} most likely never matches: {what}{hint}"))
}

/// The repository of a URL or of a path.
struct HubUrl<'w> {
    repo_type: Option<&'static str>,
    /// The owner and the name of the repository, and the segments after them.
    segments: Vec<&'w str>,
}

impl<'w> HubUrl<'w> {
    /// Parse a URL with a scheme, or a path after a host of the Hub.
    fn parse(word: &'w str) -> Option<Self> {
        const HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];
        let path = match word.split_once("://") {
            Some(("hf", path)) => path,
            Some((_, rest)) => rest.split_once('/').unwrap_or_default().1,
            None => {
                let (host, path) = word.split_once('/')?;
                HOSTS.contains(&host).then_some(path)?
            }
        };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        Some(Self::of_path(path.strip_prefix("api/").unwrap_or(path)))
    }

    fn of_path(path: &'w str) -> Self {
        let mut segments: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let first = segments.first().copied().unwrap_or_default();
        let repo_type = PREFIXES
            .iter()
            .find(|(prefix, _)| *prefix == first)
            .map(|(_, name)| *name);
        if repo_type.is_some() {
            segments.remove(0);
        }
        Self {
            repo_type,
            segments,
        }
    }

    fn repo(&self) -> String {
        let name = self.segments[..self.segments.len().min(2)].join("/");
        name.strip_suffix(".git").unwrap_or(&name).to_owned()
    }

    /// The arguments for the repository; empty if the URL has none.
    fn right(&self) -> String {
        match (self.repo(), self.repo_type) {
            (name, _) if name.is_empty() => name,
            (name, None) => argument(Criterion::Repo, &name),
            (name, Some(repo_type)) => format!(
                "{} with {}",
                argument(Criterion::Repo, &name),
                argument(Criterion::RepoType, repo_type)
            ),
        }
    }
}

/// Whether a part of a pattern can match a `/` or the empty string.
fn is_flexible(pattern: &str) -> bool {
    pattern.contains(['{', '[', '\\']) || pattern.split('/').any(|segment| segment == "**")
}

fn right_repo(word: &str) -> Option<String> {
    let text = word.trim();
    if let Some(url) = HubUrl::parse(text) {
        return Some(url.right());
    }
    if is_flexible(text) {
        return None;
    }
    if text == "*" {
        return Some(argument(Criterion::Repo, "*/*"));
    }
    let path = text.trim_start_matches('@').trim_matches('/');
    let url = if path.split('/').count() > 2 {
        HubUrl::of_path(path)
    } else {
        HubUrl {
            repo_type: None,
            segments: path.split('/').collect(),
        }
    };
    (url.repo() != word).then(|| url.right())
}

fn right_owner(word: &str) -> Option<String> {
    let text = word.trim();
    if let Some(url) = HubUrl::parse(text) {
        let owner = url.segments.first();
        return Some(owner.map_or_else(String::new, |name| argument(Criterion::Owner, name)));
    }
    let name = text.trim_start_matches('@').trim_matches('/');
    let name = name.strip_suffix("/*").unwrap_or(name);
    let name = name.strip_suffix("/**").unwrap_or(name);
    if name.contains('/') {
        return Some(argument(Criterion::Repo, name));
    }
    // `owner` takes no patterns.
    if name.contains(['*', '?', '[', '{']) {
        return Some(argument(Criterion::Repo, &format!("{name}/*")));
    }
    (name != word).then(|| {
        if name.is_empty() {
            String::new()
        } else {
            argument(Criterion::Owner, name)
        }
    })
}

fn right_ref(word: &str) -> Option<String> {
    let text = word.trim();
    if text.contains("://") {
        return Some(String::new());
    }
    if is_flexible(text) {
        return None;
    }
    // It is a commit.
    if text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(String::new());
    }
    let path = text.trim_matches('/');
    let (is_full, rest) = match path.strip_prefix("refs/") {
        Some(rest) => (true, rest),
        None => (false, path),
    };
    let (namespace, name) = rest.split_once('/').unwrap_or((rest, ""));
    let known = REF_NAMESPACES.iter().find(|(given, _)| *given == namespace);
    let right = match known {
        // A branch can be named `pr/fix`. The name of a pull request is a number.
        Some((_, "pr")) if !is_full && !name.bytes().all(|b| b.is_ascii_digit() || b == b'*') => {
            path.to_owned()
        }
        Some((_, namespace)) if !name.is_empty() => format!("refs/{namespace}/{name}"),
        // A branch can have the name of a namespace.
        _ if !is_full => path.to_owned(),
        _ if namespace.contains(['*', '?']) => path.to_owned(),
        _ => return Some(nearest_ref(namespace, name)),
    };
    (right != word).then(|| argument(Criterion::Ref, &right))
}

/// The nearest ref to one in an unknown namespace.
fn nearest_ref(namespace: &str, name: &str) -> String {
    if name.is_empty() {
        // `refs/main`
        return argument(Criterion::Ref, namespace);
    }
    let namespaces = REF_NAMESPACES.map(|(_, namespace)| namespace);
    nearest(&namespaces, namespace).map_or_else(String::new, |namespace| {
        argument(Criterion::Ref, &format!("refs/{namespace}/{name}"))
    })
}

fn right_path(word: &str) -> Option<String> {
    let text = word.trim();
    if let Some(url) = HubUrl::parse(text).filter(|_| text.contains("://")) {
        let path = url.segments.get(2..).unwrap_or_default().join("/");
        return Some(if path.is_empty() {
            path
        } else {
            argument(Criterion::Path, &path)
        });
    }
    let mut path = text
        .trim_start_matches("./")
        .trim_start_matches('/')
        .to_owned();
    if path.ends_with('/') {
        path += "**";
    }
    (path != word).then(|| {
        if path.is_empty() {
            path
        } else {
            argument(Criterion::Path, &path)
        }
    })
}
