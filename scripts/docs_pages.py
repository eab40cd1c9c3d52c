"""Write the generated pages of the docs: payloads and commands.

    python scripts/docs_pages.py

The pages are committed, so that they can be read on GitHub.
"""

from __future__ import annotations

import inspect
import json
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin

from typer import Context
from typer.models import ArgumentInfo, OptionInfo

from hubhooks import HubEvent
from hubhooks._samples import describe, sample_json, sample_names
from hubhooks.cli import make_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typer import Typer

ROOT = Path(__file__).parent.parent
NOTE = "<!-- Made by scripts/docs_pages.py: change what it reads, and run it. -->"
KINDS = {bool: "", int: "N", float: "N", str: "TEXT"}

# ---- payloads -----------------------------------------------------------------------------

PARTS = (
    "repo",
    "discussion",
    "comment",
    "webhook",
    "moved_to",
    "updated_refs",
    "updated_files",
    "updated_config",
)
PAYLOADS = f"""\
# Payloads

The JSON body of each kind of delivery, with the event class that it becomes. Send one to your app:

```sh
hubhooks send http://127.0.0.1:8000 --sample repo.content.update
```

{NOTE}

A test gets one with `testing.sample("repo.content.update")`. The samples have the shapes of the
Hub. All names, ids and hashes in them are invented. [Event types](events.md) lists the fields of
the classes.

A delivery is a POST request. The header `X-Webhook-Secret`, or `?secret=` in the URL, has the
secret. The header `Webhook-Id` has the id of the delivery. It is the same when the Hub sends the
delivery again. Source: <https://huggingface.co/docs/hub/webhooks>.

| scope | action | class | samples |
|---|---|---|---|
"""
MEANINGS = {
    ("repo", "create"): "A repository was created.",
    ("repo", "delete"): "A repository was deleted.",
    (
        "repo",
        "update",
    ): "A repository was updated in a way that has no scope of its own.",
    (
        "repo",
        "move",
    ): "A repository was renamed or moved to another owner. `repo.name` is the old name.",
    (
        "repo.content",
        "update",
    ): "Refs were pushed, by a user or by the Hub. In a bucket: files changed.",
    ("repo.config", "update"): "Settings changed. The Hub names only some of them.",
    (
        "discussion",
        "create",
    ): "A discussion or pull request was opened. The comment is its first post. The "
    "Hub sends no other delivery for that post.",
    (
        "discussion",
        "update",
    ): "Its title, status or pin changed. `author` is the user who opened it.",
    ("discussion", "delete"): "A discussion was deleted.",
    ("discussion.comment", "create"): "Someone wrote a comment, other than the first post.",
    (
        "discussion.comment",
        "update",
    ): "A comment was edited or hidden. A hidden comment has no `content`.",
}


class Sample(NamedTuple):
    """A sample of the package, and its event."""

    name: str
    payload: dict[str, Any]
    event: HubEvent


def payloads_page() -> str:
    """Describe each kind of delivery."""
    kinds: dict[tuple[str, str], list[Sample]] = {}
    for name in sample_names():
        payload = sample_json(name)
        event = HubEvent.from_dict(payload)
        kinds.setdefault((event.scope, event.action), []).append(Sample(name, payload, event))
    rows, sections = [], []
    for kind, meaning in MEANINGS.items():
        samples = kinds.pop(kind)
        scope, action = kind
        class_name = type(samples[0].event).__name__
        anchor = f"{scope} {action}".replace(".", "").replace(" ", "-")
        rows.append(f"| `{scope}` | `{action}` | `{class_name}` | [{len(samples)}](#{anchor}) |\n")
        sections.append(f"\n## {scope} {action}\n\n{meaning} Class: `{class_name}`.\n")
        sections += map(sample_section, samples)
    if kinds:
        raise KeyError(*kinds)
    return f"{PAYLOADS}{''.join(rows)}{''.join(sections)}"


def sample_section(sample: Sample) -> str:
    """Show one sample, collapsed."""
    about = describe(sample.payload)
    carried = ", ".join(f"`{part}`" for part in PARTS if getattr(sample.event, part))
    return (
        f"\n### {sample.name}\n\n"
        f"{about[0].upper()}{about[1:]}. Carries {carried}.\n\n"
        '<details markdown="1">\n<summary>The body</summary>\n\n'
        f"```json\n{json.dumps(sample.payload, indent=2, ensure_ascii=False)}\n```\n\n"
        "</details>\n"
    )


# ---- the commands ----------------------------------------------------------------------------

COMMANDS = f"""\
# Command line

{NOTE}

Develop an app with `hubhooks dev`, `hubhooks send`, `hubhooks handlers` and `hubhooks explain`, and
manage its deliveries. hubhooks is not on PyPI yet. Until its first release, [build a
wheel](../README.md#install) first.

```sh
pip install "hubhooks[cli]"
hubhooks init fastapi my-bot
hubhooks send http://127.0.0.1:8000 --sample repo.create
hubhooks deliveries list --state failed
```

Data goes to stdout, notes and errors to stderr. The exit code is 2 if an option is wrong. Each
command has `--help`.
[Replay](replay.md) shows the commands of `hubhooks deliveries` with examples.
[Testing](testing.md#explain-without-a-server) shows `handlers` and `explain`.
[Deliveries and runs](deliveries.md#copy-deliveries-to-your-machine) shows `follow`.
"""


def commands_page() -> str:
    """Describe each command, its arguments and options."""
    return COMMANDS + "".join(commands(make_app(), "hubhooks"))


def commands(group: Typer, name: str) -> Iterator[str]:
    """Describe a group and its commands."""
    if group.registered_callback is not None and group.registered_callback.callback is not None:
        info = group.registered_callback
        yield command(info.callback, name, info.help, "COMMAND")
    for info in group.registered_commands:
        if info.callback is not None:
            yield command(info.callback, f"{name} {info.name}", info.help)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from commands(inner.typer_instance, f"{name} {inner.name}")


def command(function: Callable[..., Any], name: str, text: str | None, then: str = "") -> str:
    """Describe one command."""
    words, arguments, options = [name], [], []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.annotation is Context:
            continue  # an argument of typer, not of the user
        hint, info = get_args(parameter.annotation)
        what = f"{sentence(info.help or '')}{extras(hint, parameter.default, info)}"
        if isinstance(info, ArgumentInfo):
            word = info.metavar or parameter.name.upper()
            is_many = get_origin(plain(hint)) is list
            shown = word + "..." * is_many
            words.append(shown if parameter.default is parameter.empty else f"[{shown}]")
            arguments.append(f"| `{shown}` | {what} |\n")
        else:
            flag = flag_of(parameter.name, info)
            is_needed = parameter.default is parameter.empty
            if is_needed:
                words.append(f"{flag} {value_of(hint, info)}")
            shown = f"{flag} {value_of(hint, info)}".strip()
            options.append(f"| `{shown}` | {what} |\n")
    if options:
        words.insert(1, "[OPTIONS]")
    usage = " ".join([*words, then]).strip()
    tables = "".join(
        f"\n| {heading} | |\n|---|---|\n{''.join(rows)}"
        for heading, rows in (("argument", arguments), ("option", options))
        if rows
    )
    return f"\n## {name}\n\n```text\n{usage}\n```\n\n{(text or '').strip()}\n{tables}"


def flag_of(name: str, info: OptionInfo) -> str:
    """Return the name of an option, as typer names it."""
    given = [word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str)]
    return next(iter(given), f"--{name.replace('_', '-')}")


def value_of(hint: Any, info: OptionInfo) -> str:  # noqa: ANN401
    """Return the placeholder of an option's value."""
    kind = plain(hint)
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
    return info.metavar or ("WORD" if issubclass(kind, Enum) else KINDS[kind])


def plain(hint: Any) -> Any:  # noqa: ANN401
    """Remove None from a type."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kinds[0] if len(kinds) == 1 and NoneType in get_args(hint) else hint


def sentence(text: str) -> str:
    """End a text with a full stop."""
    return text if text.endswith(".") else f"{text}."


def extras(hint: Any, default: object, info: ArgumentInfo | OptionInfo) -> str:  # noqa: ANN401
    """Describe choices, limits, the variable and the default, as the help does."""
    said = []
    kind = plain(hint)
    if inspect.isclass(kind) and issubclass(kind, Enum):
        said.append("One of " + ", ".join(f"`{choice.value}`" for choice in kind) + ".")
    if info.min is not None:
        said.append(f"At least {info.min}.")
    if info.max is not None:
        said.append(f"At most {info.max:,}.")
    if info.envvar is not None:
        said.append(f"Or the variable `{info.envvar}`.")
    if isinstance(default, Enum):
        default = default.value
    if isinstance(default, (str, int, float)) and not isinstance(default, bool):
        said.append(f"By default `{default}`.")
    return "".join(f" {word}" for word in said)


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (ROOT / name).write_text(page(), "utf-8")
        print(name)


PAGES = {"docs/payloads.md": payloads_page, "docs/cli.md": commands_page}

if __name__ == "__main__":
    main()
