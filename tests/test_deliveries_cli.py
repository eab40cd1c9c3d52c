"""`hubhooks deliveries` on real files, beside processes that use them."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from rich.text import Text
from servers import PATIENCE, ROOT, Server, started, wait_until
from test_cli import ENVIRONMENT, hubhooks
from typer.testing import CliRunner

from hubhooks import State, Webhooks, testing
from hubhooks._samples import compact, sample_json
from hubhooks._store import clock, prune, reads
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks.cli import make_app
from hubhooks.cli import replay as _replay
from hubhooks.cli import store as _cli_store
from hubhooks.cli.output import delivery_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DAY = 24 * 60 * 60
MALFORMED = b'{"event": \xff\x1b[2J'
TRACEBACK = (
    'Traceback (most recent call last):\n  File "app.py", line 3\nValueError: no \x1b[31mtide\n'
)
WHY = "`retrain` does not match: no ref\n`reply` does not match: no comment"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hubhooks.db"


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[SqliteStore]:
    store = SqliteStore(path, **options)
    store.open()
    try:
        store.recover()
        yield store
    finally:
        store.close()


def accept(store: SqliteStore, name: str, *handlers: str, sample: str = "repo.create") -> None:
    """Store a delivery."""
    payload = sample_json(sample)
    store.accept(
        name,
        compact(payload),
        handlers,
        None if handlers else "unhandled",
        "" if handlers else WHY,
        scope=payload["event"]["scope"],
        action=payload["event"]["action"],
        repo=payload["repo"]["name"],
        headers=[(b"x-webhook-secret", b"moon"), (b"user-agent", b"hub")],
    )


def end(store: SqliteStore, name: str, **endings: str) -> None:
    """Run handlers of a delivery to their ends."""
    for handler, ending in endings.items():
        delivery = store.claim(name, handler)
        assert delivery is not None
        how = ("ValueError: no \x1b[31mtide", TRACEBACK) if ending == "failed" else ("", "")
        store.finish_run(delivery, ending, *how)  # type: ignore[arg-type]


@pytest.fixture
def filled(path: Path) -> Path:
    """Return a store with a delivery of each kind and without an app."""
    with opened(path) as store:
        accept(store, "succeeded-1", "retrain", sample="repo.content.update")
        end(store, "succeeded-1", retrain="succeeded")
        store.mark_acknowledged("succeeded-1", delivered=True)
        accept(store, "failed-1", "retrain", "reply", sample="discussion.comment.create")
        end(store, "failed-1", retrain="failed", reply="succeeded")
        accept(store, "unhandled-1")
        store.accept("malformed-1", MALFORMED, (), "malformed", "no JSON at \x07 line 1")
        accept(store, "failed-2", "retrain", sample="repo.content.update")
        end(store, "failed-2", retrain="failed")
        accept(store, "queued-1", "retrain", sample="repo.content.update")
    return path


NEWEST_FIRST = ["queued-1", "failed-2", "malformed-1", "unhandled-1", "failed-1", "succeeded-1"]


def command(path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `hubhooks deliveries` as a script does."""
    return hubhooks("deliveries", *words, HUBHOOKS_DELIVERIES=str(path), **environment)


def json_lines(path: Path, *words: str, code: int = 0) -> list[Any]:
    """Run it in this process, and return the lines of JSON it prints."""
    done = invoke(path, *words, "--json")
    assert done.exit_code == code, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def invoke(path: Path, *words: str) -> Any:
    environment = {"HUBHOOKS_DELIVERIES": str(path), "COLUMNS": "250"}
    return CliRunner().invoke(make_app(), ["deliveries", *words], env=environment)


def at_terminal(path: Path, *words: str, columns: int = 80) -> list[str]:
    """Run it at a terminal of that width, and return the lines that it shows."""
    pty, fcntl, termios, struct = map(pytest.importorskip, ("pty", "fcntl", "termios", "struct"))
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {**ENVIRONMENT, "HUBHOOKS_DELIVERIES": str(path), "TERM": "xterm"}
    del environment["COLUMNS"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hubhooks.cli", "deliveries", *words],
        stdin=inner,
        stdout=inner,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    os.close(inner)
    shown = b""
    with os.fdopen(outer, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(4096):
                shown += part
        except OSError:  # Linux reports the closed other end as an error
            pass
    assert process.wait(PATIENCE) == 0
    return [Text.from_ansi(line).plain for line in shown.decode().splitlines()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "--limit", "9" * 20], "--limit"),
        (["list", "--repo", "me/\udcff"], "--repo must contain only printable characters"),
        (["list", "--scope", "repo\x1b[31m"], "--scope must contain only printable characters"),
        (["replay", "d1", "--only", "\udcff"], "--only must contain only printable characters"),
        (["list", "--file", "x" * 5000], "ile name too long"),
        (["show", "d1", "--file", "x" * 5000], "ile name too long"),
    ],
)
def test_invalid_options_are_usage_errors(path: Path, words: list[str], message: str) -> None:
    store = SqliteStore(path)
    store.open()
    store.close()
    done = invoke(path, *words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


# ---- an app --------------------------------------------------------------------------------------

APP = """
import os, signal, time
from pathlib import Path
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on()
def retrain(event, context):
    assert context.is_replay

@hooks.on(name="break")
def break_(event):
    raise ValueError("no tide")

@hooks.on(retries=1, backoff=0.1)
def stumble(event, context):
    assert context.attempt % 2

@hooks.on()
def hang(event):
    Path("hanging").touch()
    while not Path("release").exists():
        time.sleep(0.01)

@hooks.on()
def die(event):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@contextmanager
def running_app(path: Path) -> Iterator[Server]:
    """Run the deliveries of the store in another process."""
    command = ("-m", "uvicorn", "app:hooks", "--port", "{port}")
    environ: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": str(path)}
    with started(path.parent, *command, script=APP, environ=environ) as app:
        app.wait_until(LeaderLock(path).is_taken, "does not run the deliveries")
        try:
            yield app
        finally:
            (path.parent / "release").touch()


def fill(path: Path, **handlers: str) -> None:
    """Keep a finished delivery for each handler, with that state."""
    with opened(path) as store:
        for handler, ending in handlers.items():
            accept(store, f"of-{handler}", handler)
            end(store, f"of-{handler}", **{handler: ending})


# ---- list ----------------------------------------------------------------------------------------


def test_deliveries_are_listed_with_the_newest_first(filled: Path) -> None:
    done = command(filled, "list")
    assert (done.returncode, done.stderr) == (0, "")
    header, _, *rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert header == ["id", "received", "state", "event", "repo", "handlers", "error"]
    assert [row[0] for row in rows] == NEWEST_FIRST
    failed = ["failed", "repo.content", "update", "ada-labs/tide-gauges", "retrain"]
    assert rows[1][3:] == [*failed, "ValueError:", "no", "[31mtide"]
    assert rows[2][4:] == ["no", "JSON", "at", "line", "1"]
    assert rows[4][-7:-3] == ["retrain:", "failed,", "reply:", "succeeded"]


def test_list_without_errors_has_no_error_column(filled: Path) -> None:
    done = command(filled, "list", "--state", "succeeded")
    assert "error" not in done.stdout
    assert "error" not in "".join(at_terminal(filled, "list", "--state", "succeeded"))


def test_error_of_a_retry_is_listed_until_it_succeeds(path: Path) -> None:
    with opened(path) as store:
        accept(store, "d1", "retrain")
        end(store, "d1", retrain="failed")
        store.flush()
        assert "ValueError: no" in command(path, "list").stdout
        store.replay("d1")
        end(store, "d1", retrain="succeeded")
    assert "ValueError" not in command(path, "list").stdout


@pytest.mark.parametrize("word", ["tide ", "潮汐 "], ids=["narrow", "wide"])
@pytest.mark.parametrize("columns", [60, 80, 119, 120, 160])
def test_errors_are_cut_to_the_width_of_the_terminal(path: Path, columns: int, word: str) -> None:
    with opened(path) as store:
        accept(store, "d" * 32, "retrain", sample="discussion.comment.create")
        run = store.claim("d" * 32, "retrain")
        assert run is not None
        store.finish_run(run, "failed", f"ValueError: no {word * 50}", "")
    lines = at_terminal(path, "list", columns=columns)
    assert max(map(cell_len, lines)) <= columns
    text = "\n".join(lines)
    assert "ValueError:" in text
    assert "..." in text
    if columns >= 80:
        assert f"ValueError: no {word.strip()}" in text
        assert "discussion.comment create" in text
        assert "ada-labs/tide-gauges" in text
        # The heading and its rule, then the delivery: event and handlers share a column below 120.
        assert len([line for line in lines if line.strip()]) == (4 if columns >= 120 else 5)


TABLES = [
    ("list",),
    ("show", "failed-1"),
    ("show", "unhandled-1"),
    ("show", "malformed-1"),
    ("stats",),
    ("replay", "--failed", "--dry-run"),
    ("replay", "--failed"),
]


@pytest.mark.parametrize("words", TABLES, ids=" ".join)
def test_piped_lines_have_no_trailing_blanks(filled: Path, words: tuple[str, ...]) -> None:
    done = invoke(filled, *words)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert len(lines) > 3
    assert [line for line in lines if line != line.rstrip()] == []


@pytest.mark.slow
@pytest.mark.parametrize("words", TABLES, ids=" ".join)
def test_every_table_fits_a_terminal_of_80_columns(filled: Path, words: tuple[str, ...]) -> None:
    lines = at_terminal(filled, *words)
    # Bodies are not folded.
    end = lines.index("{") if "{" in lines else len(lines)
    assert max(map(len, lines[:end])) <= 80
    columns = {"list": ("id", "state", "event", "repo"), "replay": ("id", "handler")}
    header = " ".join(lines)
    assert all(column in header for column in columns.get(words[0], ("state",)))


def test_error_of_a_handler_in_another_state_has_its_name(path: Path) -> None:
    with opened(path) as store:
        accept(store, "d1", "reply", "retrain")
        reply, retrain = (store.claim("d1", name) for name in ("reply", "retrain"))
        assert reply is not None
        assert retrain is not None
        store.finish_run(reply, "failed", "ConnectionError: no answer", retry_after=3600)
        store.mark_stuck(retrain)
        store.flush()
        found = store.list()
    assert [delivery.state for delivery in found] == ["stuck"]
    assert [delivery_error(delivery) for delivery in found] == ["reply: ConnectionError: no answer"]


def test_a_list_fits_a_terminal_of_80_columns(path: Path) -> None:
    with opened(path) as store:
        for sign in "ab":
            accept(store, sign * 32, "retrain", sample="discussion.comment.create")
    lines = at_terminal(path, "list")
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if "bbbbbbbb" in line]
    assert re.fullmatch(
        r" b{8} +\d+s +queued +discussion.comment create +ada-labs/tide-gauges *", row
    )


def test_ids_are_shortened_while_unique(path: Path) -> None:
    with opened(path) as store:
        for sign in "ab":
            accept(store, f"0123456789{sign}xyz")
    text = "".join(at_terminal(path, "list", columns=200))
    assert "0123456789a " in text
    assert "0123456789b " in text


def test_a_wide_terminal_shows_handlers_and_times(filled: Path) -> None:
    text = "\n".join(at_terminal(filled, "list", columns=140))
    assert "retrain: failed, reply: succeeded" in text
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text)


# ---- list --follow -------------------------------------------------------------------------------


class Following:
    """A running `deliveries list --follow`."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def lines(self) -> list[str]:
        text = self._output.read_text("utf-8")
        return [line for line in text.splitlines() if not line.startswith("waiting for deliveries")]

    def wait_for(self, *ends: str) -> None:
        """Wait until it printed as many lines, and each contains its text."""
        wait_until(lambda: len(self.lines) >= len(ends), f"printed only {self.lines}")
        assert len(self.lines) == len(ends), self.lines
        for line, end in zip(self.lines, ends, strict=True):
            assert end in line, self.lines

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(PATIENCE) == 0


@contextmanager
def following(path: Path, *words: str) -> Iterator[Following]:
    output = path.parent / f"followed-{len(list(path.parent.iterdir()))}"
    with output.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "hubhooks.cli", "deliveries", "list", "--follow", *words],
            stdout=stdout,
            stderr=subprocess.STDOUT,
            env={**ENVIRONMENT, "HUBHOOKS_DELIVERIES": str(path)},
        )
    try:
        wait_until(lambda: "--json" in words or b"waiting" in output.read_bytes())
        if "--json" in words:
            time.sleep(2)  # it prints nothing when it is ready
        yield Following(process, output)
    finally:
        process.kill()
        process.wait(PATIENCE)


def test_follow_prints_new_and_changed_deliveries(filled: Path) -> None:
    with opened(filled) as store, following(filled) as follow:
        accept(store, "d1", "retrain", sample="repo.content.update")
        follow.wait_for("d1  queued     repo.content update  ada-labs/tide-gauges  retrain")
        end(store, "d1", retrain="failed")
        store.flush()
        follow.wait_for("queued", "d1  failed     repo.content update")
        assert follow.lines[1].endswith("retrain  ValueError: no [31mtide")
        store.replay("failed-1", ["retrain"])
        follow.wait_for("queued", "failed", "failed-1  queued")
        follow.stop()


def test_follow_prints_json_lines_with_filters(path: Path) -> None:
    with opened(path) as store:
        accept(store, "old", "retrain")
        words = ("--json", "--state", "failed", "--repo", "ada-labs/tide-gauges")
        with following(path, *words) as follow:
            for name, sample in (("d1", "repo.create"), ("d2", "repo.content.update")):
                accept(store, name, "retrain", sample=sample)
                end(store, name, retrain="failed")
            store.flush()
            wait_until(lambda: follow.lines)
            follow.stop()
            (delivery,) = map(json.loads, follow.lines)
    assert (delivery["id"], delivery["state"]) == ("d2", "failed")


def test_follow_with_since_prints_stored_deliveries_first(path: Path) -> None:
    with opened(path) as store:
        for name in ("d1", "d2"):
            accept(store, name, "retrain")
    with following(path, "--since", "1h") as follow:
        follow.wait_for("d1  queued", "d2  queued")


def test_follow_survives_a_replaced_and_a_missing_store(path: Path) -> None:
    with opened(path) as store:
        accept(store, "d1", "retrain")
    with following(path) as follow:
        for file in path.parent.glob("hubhooks.db*"):
            file.unlink()
        time.sleep(1)
        with opened(path) as store:
            accept(store, "d2", "retrain")
            wait_until(lambda: any("d2" in line for line in follow.lines))
            accept(store, "d3", "retrain")
            wait_until(lambda: any("d3" in line for line in follow.lines))
        follow.stop()
    found = [line for line in follow.lines if "cannot read" not in line]
    assert [line.split()[2] for line in found] == ["d2", "d3"]


def test_follow_survives_a_restart_of_the_app(path: Path) -> None:
    with opened(path):
        pass
    with following(path) as follow:
        for name in ("d1", "d2"):
            with running_app(path):
                with opened(path) as store:
                    accept(store, name, "break")
                wait_until(lambda name=name: any(f"{name}  failed" in x for x in follow.lines))
        follow.stop()


def test_follow_ends_if_nobody_reads_its_output(path: Path) -> None:
    with opened(path) as store:
        process = subprocess.Popen(
            [sys.executable, "-m", "hubhooks.cli", "deliveries", "list", "--follow", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**ENVIRONMENT, "HUBHOOKS_DELIVERIES": str(path)},
        )
        assert process.stdout is not None
        process.stdout.close()
        try:
            wait_until(lambda: tell(store) or process.poll() is not None)
            assert process.returncode == 0
        finally:
            process.kill()
            process.communicate()


def tell(store: SqliteStore) -> None:
    """Store a delivery, for a reader that may start later."""
    accept(store, os.urandom(8).hex())
    time.sleep(0.2)


def test_follow_is_idle_while_nothing_changes(path: Path) -> None:
    with opened(path), following(path) as follow:
        pid = follow.process.pid
        time.sleep(1)
        before = cpu_seconds(pid)
        time.sleep(2)
        assert cpu_seconds(pid) - before < 0.1


def cpu_seconds(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        pytest.skip("there is no /proc")
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("words", [("--before", "d1"), ("--limit", "3")])
def test_follow_takes_no_pages(path: Path, words: tuple[str, ...]) -> None:
    with opened(path):
        pass
    done = invoke(path, "list", "--follow", *words)
    assert done.exit_code == 2
    assert "leave out --before and" in done.output


def test_follow_needs_a_store(path: Path) -> None:
    done = invoke(path, "list", "--follow")
    assert done.exit_code == 2
    assert "there is no delivery store" in " ".join(done.output.split())


# ---- list --json ---------------------------------------------------------------------------------


def test_json_list_has_a_line_per_delivery(filled: Path) -> None:
    done = command(filled, "list", "--json", "--limit", "5")
    *_, line = done.stdout.splitlines()
    delivery = json.loads(line)
    assert datetime.now(timezone.utc) - datetime.fromisoformat(delivery.pop("received_at")) < (
        timedelta(days=1)
    )
    retrain, reply = delivery.pop("runs")
    assert delivery == {
        "id": "failed-1",
        "state": "failed",
        "scope": "discussion.comment",
        "action": "create",
        "repo": "ada-labs/tide-gauges",
        "size": len(compact(sample_json("discussion.comment.create"))),
        "reason": "",
        "is_replay": False,
        "is_acknowledged": False,
        "duplicates": 0,
    }
    assert (retrain["handler"], retrain["state"], retrain["attempts"]) == ("retrain", "failed", 1)
    assert retrain["error"] == "ValueError: no \x1b[31mtide"
    assert (reply["state"], reply["crashes"], reply["due_at"]) == ("succeeded", 0, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--state failed", ["failed-2", "failed-1"]),
        ("--scope discussion.comment", ["failed-1"]),
        ("--repo ada-labs/tide-forecast", ["unhandled-1"]),
        ("--since 2h", NEWEST_FIRST),
        ("--since 2000-01-01", NEWEST_FIRST),
        ("--since 2100-01-01T00:00:00Z", []),
        ("--before malformed-1 --limit 2", ["unhandled-1", "failed-1"]),
        ("--before mal", ["unhandled-1", "failed-1", "succeeded-1"]),
        ("--limit 2", ["queued-1", "failed-2"]),
        ("--state failed --before failed-2 --since 1w", ["failed-1"]),
    ],
)
def test_list_has_filters(filled: Path, options: str, expected: list[str]) -> None:
    assert [delivery["id"] for delivery in json_lines(filled, "list", *options.split())] == expected


def test_old_deliveries_are_not_recent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as store:
        for name, hours in (("old", 3), ("new", 1)):
            with monkeypatch.context() as patch:
                then = time.time() - hours * 3600
                patch.setattr(clock, "now", lambda then=then: then)
                accept(store, name)
    assert [delivery["id"] for delivery in json_lines(path, "list", "--since", "2h")] == ["new"]
    yesterday = datetime.now().astimezone() - timedelta(hours=2)
    for text in (yesterday.isoformat(), yesterday.replace(tzinfo=None).isoformat(" ")):
        assert [delivery["id"] for delivery in json_lines(path, "list", "--since", text)] == ["new"]


def test_list_names_the_next_page(filled: Path) -> None:
    assert (
        "for older deliveries: --before failed-2" in invoke(filled, "list", "--limit", "2").stderr
    )
    assert invoke(filled, "list", "--limit", "6").stderr == ""


def test_empty_result_is_reported(filled: Path) -> None:
    done = invoke(filled, "list", "--state", "running")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no deliveries\n")


@pytest.mark.parametrize("state", State)
def test_list_takes_every_state(filled: Path, state: State) -> None:
    done = invoke(filled, "list", "--state", state)
    assert done.exit_code == 0, done.output


# ---- show ----------------------------------------------------------------------------------------


def test_show_prints_all_details(filled: Path) -> None:
    done = command(filled, "show", "failed-1")
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.sub(" +", " ", done.stdout)
    for text in (
        "delivery failed-1",
        "state failed",
        "event discussion.comment create",
        "not known to be received by the sender",
        "retrain failed 1",
        "reply succeeded 1",
        "retrain: ValueError: no \\u001b[31mtide",
        ' File "app.py", line 3',
        "x-webhook-secret: (redacted)",
        "user-agent: hub",
    ):
        assert text in shown
    assert "moon" not in done.stdout
    body = done.stdout[done.stdout.index("\n{") :]
    assert json.loads(body) == sample_json("discussion.comment.create")
    assert '\n  "repo": {\n    "type"' in body


def test_unhandled_delivery_shows_a_reason_per_handler(filled: Path) -> None:
    lines = [line.strip() for line in command(filled, "show", "unh").stdout.splitlines()]
    assert "reason `retrain` does not match: no ref" in [re.sub(" +", " ", x) for x in lines]
    assert "`reply` does not match: no comment" in lines


def test_a_delivery_in_json_is_one_object(filled: Path) -> None:
    (delivery,) = json_lines(filled, "show", "failed-1")
    assert delivery["body"] == sample_json("discussion.comment.create")
    assert delivery["headers"] == [["x-webhook-secret", "(redacted)"], ["user-agent", "hub"]]
    assert delivery["runs"][0]["traceback"] == TRACEBACK
    (delivery,) = json_lines(filled, "show", "malformed-1")
    assert delivery["body"] == '{"event": \\xff\x1b[2J'


def test_body_with_non_json_values_is_shown(path: Path) -> None:
    with opened(path) as store:
        store.accept("odd", b'{"n": NaN}', (), "malformed", "NaN is no JSON")
        store.accept("exact", b'{"n": 12345678901234567890, "s": "\\ud800"}', (), "malformed", "no")
    done = invoke(path, "show", "odd", "--json")
    assert "NaN" in done.stdout
    delivery = json.loads(done.stdout, parse_constant=lambda _: pytest.fail("a NaN is no JSON"))
    assert delivery["body"] == {"n": "nan"}
    (delivery,) = json_lines(path, "show", "exact")
    assert delivery["body"] == {"n": 12345678901234567890, "s": "\ud800"}


def test_retrying_runs_show_time_and_reason(path: Path) -> None:
    with opened(path) as store:
        accept(store, "d1", "retrain")
        store.claim("d1", "retrain")
        store.close()
        store.open()
        store.recover()
    shown = re.sub(" +", " ", invoke(path, "show", "d1").stdout)
    assert re.search(
        r"retrying 1 .* retry at [-\d]+ [-+:\d]+; the process died during 1 attempt", shown
    )


def test_show_has_the_error_of_an_earlier_attempt(path: Path) -> None:
    with opened(path) as store:
        accept(store, "d1", "retrain")
        first = store.claim("d1", "retrain")
        store.finish_run(first, "failed", "no \x1b[2Jtoken", "at line 1", retry_after=0)
        store.flush()
        store.finish_run(store.claim("d1", "retrain"), "succeeded")
    shown = re.sub(" +", " ", invoke(path, "show", "d1").stdout)
    assert "retrain, attempt 1: no \\u001b[2Jtoken\n at line 1\n" in shown
    (delivery,) = json_lines(path, "show", "d1")
    (run,) = delivery["runs"]
    assert (run["state"], run["error"]) == ("succeeded", "")
    found = [(each["state"], each["error"], each["traceback"]) for each in run["history"]]
    assert found == [("failed", "no \x1b[2Jtoken", "at line 1"), ("succeeded", "", "")]


def test_sent_text_cannot_control_the_terminal(filled: Path) -> None:
    with opened(filled) as store:
        body = compact({"comment": {"content": "\x1b[2J\x9b1m\u202e\x7f né"}})
        store.accept("\x1b[2J-id", body, (), "unhandled", "\x07", scope="\x1b]0;", repo="\x9b1m")
    words = [
        ("list",),
        ("show", "\x1b"),
        ("show", "unr"),
        ("show", "failed-1"),
        ("list", "--limit=1"),
    ]
    words += [("replay", "\x1b", "--only", "a", "--dry-run"), ("replay", "\x1b")]
    for done in (invoke(filled, *one) for one in words):
        assert {sign for sign in done.output if not sign.isprintable()} == {"\n"}
    shown = invoke(filled, "show", "\x1b").stdout
    assert "\\u202e" in shown
    assert " né" in shown


def test_show_fits_80_columns_except_the_body(filled: Path) -> None:
    lines = at_terminal(filled, "show", "failed-1")
    assert max(map(len, lines[: lines.index("{")])) <= 80


def test_long_body_lines_stay_whole(path: Path) -> None:
    text = "word " * 1000
    with opened(path) as store:
        store.accept("d1", compact({"comment": {"content": text}}), (), "unhandled")
    assert f'"content": "{text}"\n' in invoke(path, "show", "d1").stdout


def test_dropped_body_is_reported(filled: Path) -> None:
    with opened(filled, max_bytes=1) as store:
        store.prune()
    assert "deleted to free space" in invoke(filled, "show", "succeeded-1").stdout
    assert json_lines(filled, "show", "succeeded-1")[0]["body"] is None


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("x", "no id begins with `x`"),
        ("failed", "several ids begin with `failed`: write more of one: failed-1, failed-2"),
        ("\udcff", "no id begins with `?`"),
    ],
)
def test_unknown_id_is_a_usage_error(filled: Path, prefix: str, message: str) -> None:
    done = invoke(filled, "show", prefix)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in Text.from_ansi(done.stderr).plain


def test_whole_id_wins_over_longer_ids(path: Path) -> None:
    with opened(path) as store:
        for name in ("d12", "d1", "d11"):
            accept(store, name)
    assert json_lines(path, "show", "d1")[0]["id"] == "d1"


# ---- replay --------------------------------------------------------------------------------------


def test_replay_follows_runs_to_their_end(path: Path) -> None:
    fill(path, retrain="succeeded", stumble="failed")
    with running_app(path):
        done = command(path, "replay", "of-retrain", "of-st")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()][2:]
    assert rows == [["succeeded", "retrain", "of-retrain"], ["succeeded", "stumble", "of-stumble"]]
    store = SqliteStore(path)
    states = {name: store.get(name).runs[0].attempts for name in ("of-retrain", "of-stumble")}
    assert states == {"of-retrain": 2, "of-stumble": 3}


def test_failed_replay_sets_the_exit_code(path: Path) -> None:
    fill(path, retrain="succeeded", **{"break": "succeeded"})
    with running_app(path):
        done = command(path, "replay", "of-retrain", "of-break", "--json")
    assert done.returncode == 1
    retrain, broken = map(json.loads, done.stdout.splitlines())
    assert (retrain["runs"][0]["state"], retrain["skipped"]) == ("succeeded", None)
    assert (broken["id"], broken["handlers"]) == ("of-break", ["break"])
    assert broken["runs"][0]["error"] == "ValueError: no tide"


def test_many_runs_are_counted_instead_of_listed(path: Path) -> None:
    with opened(path) as store:
        for number in range(30):
            accept(store, f"d{number}", "retrain")
            end(store, f"d{number}", retrain="failed")
    with running_app(path):
        done = command(path, "replay", "--failed")
    assert done.returncode == 0
    assert ["succeeded", "retrain", "30"] in [line.split() for line in done.stdout.splitlines()]


def test_terminal_shows_progress(path: Path) -> None:
    fill(path, retrain="succeeded")
    with running_app(path):
        done = command(path, "replay", "of-retrain", FORCE_COLOR="1")
    assert "replaying" in done.stderr
    assert "replaying" not in done.stdout


def test_only_the_named_handlers_run(filled: Path) -> None:
    (replay,) = json_lines(filled, "replay", "failed-1", "--only", "reply")
    assert replay["handlers"] == ["reply"]
    runs = {
        run["handler"]: run["state"] for run in json_lines(filled, "show", "failed-1")[0]["runs"]
    }
    assert runs == {"retrain": "failed", "reply": "queued"}


def test_replay_runs_a_handler_that_did_not_match(filled: Path) -> None:
    (replay,) = json_lines(filled, "replay", "unhandled-1", "--only", "reply", "--only", "retrain")
    assert replay["handlers"] == ["reply", "retrain"]
    assert json_lines(filled, "show", "unhandled-1")[0]["state"] == "queued"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--failed", {"failed-1": ["retrain"], "failed-2": ["retrain"]}),
        ("--failed --since 2100-01-01", {}),
        ("--failed --only reply", {}),
        ("failed-1 --failed", {"failed-1": ["retrain"]}),
        (
            "--since 1h",
            {"succeeded-1": ["retrain"], "failed-1": ["retrain", "reply"], "failed-2": ["retrain"]},
        ),
        ("--since 1h --only reply", {"failed-1": ["reply"]}),
    ],
)
def test_filters_choose_deliveries_to_replay(
    filled: Path, options: str, expected: dict[str, list[str]]
) -> None:
    before = json_lines(filled, "list")
    plan = json_lines(filled, "replay", "--dry-run", *options.split())
    assert {one["id"]: one["handlers"] for one in plan} == expected
    assert json_lines(filled, "list") == before
    done = invoke(filled, "replay", "--dry-run", *options.split())
    assert [line.split()[0] for line in done.stdout.splitlines()[3:-1]] == list(expected)
    assert f"dry run: nothing was queued, {len(expected)} deliver" in done.stderr


def test_replay_of_many_pages_starts_with_the_oldest(path: Path) -> None:
    page = _replay._PAGE  # noqa: SLF001 - less than that would not show it
    names = [f"d{number}" for number in range(page + 5)]
    with opened(path) as store, store.transaction():
        for name in names:
            accept(store, name, "retrain")
            end(store, name, retrain="failed")
    assert [one["id"] for one in json_lines(path, "replay", "--failed", "--dry-run")] == names
    done = invoke(path, "replay", "--failed", "--dry-run")
    assert len(done.stdout.splitlines()) == 104
    assert f"and {page - 95} more: --json lists all" in done.stderr


def test_dropped_deliveries_are_reported_during_replay(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"d{number}" for number in range(7)]
    with opened(path) as store:
        for name in names:
            accept(store, name, "retrain")
            end(store, name, retrain="failed")
    monkeypatch.setattr(reads, "_PAGE_ROWS", 2)
    monkeypatch.setattr(prune, "CHUNK_ROWS", 2)
    monkeypatch.setattr(prune, "_IDS_OUTLIVE_BODIES", 0)
    choose = _replay._replay_of  # noqa: SLF001 - called between two pages
    pruned: list[bool] = []

    def choose_and_prune(*arguments: Any, **options: Any) -> Any:
        if not pruned:
            pruned.append(True)
            SqliteStore(path, keep_days=0).prune()
        return choose(*arguments, **options)

    monkeypatch.setattr(_replay, "_replay_of", choose_and_prune)
    plans = json_lines(path, "replay", "--failed", "--dry-run", code=1)
    assert [plan["id"] for plan in plans] == names
    assert {plan["skipped"] for plan in plans} == {"its body was deleted to free space"}
    assert json_lines(path, "list") == []


def test_replay_without_an_app_queues_for_its_start(path: Path) -> None:
    fill(path, retrain="succeeded")
    done = command(path, "replay", "of-retrain")
    assert done.returncode == 0
    assert done.stderr == "no app is running: 1 run queued for its next start\n"
    assert "queued" in done.stdout
    store = SqliteStore(path)
    with running_app(path) as app:
        app.wait_until(lambda: store.get("of-retrain").state == "succeeded", "did not run it")


def test_blocked_replay_has_a_reason(filled: Path) -> None:
    with opened(filled, max_bytes=1) as store:
        store.prune()
    done = command(filled, "replay", "succeeded-1", "unhandled-1", "queued-1")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "hubhooks: `succeeded-1` is not replayed: its body was deleted to free space",
        "hubhooks: `unhandled-1` is not replayed: no handler matches it: use --only",
        "hubhooks: `queued-1` is not replayed: handler `retrain` is still queued",
    ]
    assert done.stdout == ""
    (plan,) = json_lines(filled, "replay", "succeeded-1", "--dry-run", code=1)
    assert (plan["handlers"], plan["skipped"]) == ([], "its body was deleted to free space")


def test_nothing_to_replay_is_no_failure(filled: Path) -> None:
    done = invoke(filled, "replay", "--failed", "--since", "2100-01-01")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "nothing to replay" in done.stderr


def test_replay_does_not_wait_for_a_stopped_app(path: Path) -> None:
    fill(path, die="succeeded")
    with running_app(path):
        done = command(path, "replay", "of-die")
    assert done.returncode == 1
    assert done.stderr == "the app stopped: the unfinished runs start with its next start\n"
    assert done.stdout.split()[-3:] == ["running", "die", "of-die"]


def test_ctrl_c_ends_following(path: Path) -> None:
    fill(path, hang="succeeded")
    with running_app(path) as app, replaying(path, "of-hang") as process:
        app.wait_until((path.parent / "hanging").exists, "did not run it")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert stderr == "stopped waiting: the app still runs what is queued\n"
        assert SqliteStore(path).get("of-hang").state == "running"


@contextmanager
def replaying(path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    # If the tests run in the background, child processes ignore Ctrl-C at first.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from hubhooks.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "deliveries", "replay", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, "HUBHOOKS_DELIVERIES": str(path)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_command_waits_for_another_writer(filled: Path) -> None:
    writer = sqlite3.connect(filled, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    # Longer than the store itself waits.
    timer = threading.Timer(0.5, writer.execute, ["ROLLBACK"])
    timer.start()
    assert json_lines(filled, "replay", "succeeded-1")[0]["runs"][0]["state"] == "queued"
    timer.join()
    writer.close()


def test_locked_store_is_an_error(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cli_store, "_BUSY_SECONDS", 0.0)
    writer = sqlite3.connect(filled, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    done = invoke(filled, "replay", "succeeded-1")
    writer.close()
    assert done.exit_code == 1
    assert "is locked by another program" in done.stderr
    assert json_lines(filled, "show", "succeeded-1")[0]["state"] == "succeeded"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to replay: give ids, --failed or --since"),
        (("--only", "reply"), "nothing to replay"),
        (("succeeded-1", "--since", "1h"), "give either ids or --since, not both"),
        (("--since", "soon"), "`soon` is not a time"),
        (("--since", "999999999999w"), "is not a time"),
        (("succeeded-1", "nobody"), "no id begins with `nobody`"),
    ],
)
def test_invalid_replay_queues_nothing(filled: Path, options: Sequence[str], message: str) -> None:
    before = json_lines(filled, "list")
    done = invoke(filled, "replay", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in Text.from_ansi(done.stderr).plain
    assert json_lines(filled, "list") == before


# ---- export, prune, stats ------------------------------------------------------------------------


def test_exported_body_works_with_send_and_tests(filled: Path, tmp_path: Path) -> None:
    done = invoke(filled, "export", "failed-1", "--output", str(tmp_path / "case.json"))
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "case.json"))
    written = (tmp_path / "case.json").read_bytes()
    assert json.loads(written) == sample_json("discussion.comment.create")
    assert written.startswith(b'{\n  "event": {\n')

    hooks = Webhooks()
    hooks.on_comment()(lambda event: event.repo.name)
    assert testing.TestClient(hooks).send(written).http_status == 202


def test_an_export_is_named_after_the_event(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(filled) as store:
        store.accept("a/../b", b"{}", (), "unhandled", scope="../x", action="y")
    for name, expected in (
        ("failed-1", "discussion.comment.create.failed-1.json"),
        ("malformed-1", "malforme.json"),
        ("a/", ".._x.y.a_.._b.json"),
    ):
        assert invoke(filled, "export", name).stdout == f"{expected}\n"
        assert (tmp_path / expected).is_file()


def test_export_overwrites_no_file(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("mine")
    for output, message in (("mine.json", "already exists"), ("no/x.json", "cannot write")):
        done = invoke(filled, "export", "failed-1", "--output", str(tmp_path / output))
        assert (done.exit_code, done.stdout) == (2, "")
        assert message in Text.from_ansi(done.stderr).plain
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_malformed_body_is_exported_unchanged(filled: Path) -> None:
    environment = {**ENVIRONMENT, "HUBHOOKS_DELIVERIES": str(filled)}
    words = ("deliveries", "export", "malformed-1", "--output", "-")
    done = subprocess.run(
        [sys.executable, "-m", "hubhooks.cli", *words],
        capture_output=True,
        check=True,
        env=environment,
    )
    assert done.stdout == MALFORMED


def test_dropped_body_cannot_be_exported(filled: Path) -> None:
    with opened(filled, max_bytes=1) as store:
        store.prune()
    done = invoke(filled, "export", "succeeded-1")
    assert done.exit_code == 2
    assert "the body of `succeeded-1` was deleted" in Text.from_ansi(done.stderr).plain


def test_export_error_escapes_control_characters(path: Path) -> None:
    with opened(path) as store:
        accept(store, "\x1b[2Jodd\x07")
    with opened(path, max_bytes=1) as store:
        store.prune()
    done = invoke(path, "export", "\x1b")
    assert done.exit_code == 2
    assert "[2Jodd ` was deleted" in done.stderr
    assert {sign for sign in done.stderr if not sign.isprintable()} == {"\n"}


def test_prune_drops_old_bodies_and_keeps_unfinished_runs(filled: Path) -> None:
    def with_bodies() -> list[str]:
        return [
            name for name in NEWEST_FIRST if json_lines(filled, "show", name)[0]["body"] is not None
        ]

    sizes = {delivery["id"]: delivery["size"] for delivery in json_lines(filled, "list")}
    what = f"5 bodies ({(sum(sizes.values()) - sizes['queued-1']) / 1000:.1f} kB) and 0 deliveries"
    for options, summary in (
        ("1h", "deleted 0 bodies (0 bytes) and 0 deliveries"),
        ("0s --dry-run", f"would delete {what}"),
    ):
        done = invoke(filled, "prune", "--older-than", *options.split())
        assert done.stdout.startswith(f"{summary} received before 2")
        assert with_bodies() == NEWEST_FIRST
    assert invoke(filled, "prune", "--older-than", "0s").stdout.startswith(f"deleted {what}")
    assert with_bodies() == ["queued-1"]


def test_ids_outlive_bodies(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as store, monkeypatch.context() as patch:
        patch.setattr(clock, "now", lambda: time.time() - 8 * DAY)
        accept(store, "d1")
    assert " and 0 deliveries" in invoke(path, "prune", "--older-than", "2d").stdout
    assert [delivery["id"] for delivery in json_lines(path, "list")] == ["d1"]
    assert " and 1 delivery" in invoke(path, "prune", "--older-than", "1h").stdout
    assert json_lines(path, "list") == []


def test_prune_requires_an_age(filled: Path) -> None:
    assert "--older-than" in Text.from_ansi(invoke(filled, "prune").stderr).plain


def test_stats_count_the_store(filled: Path) -> None:
    with opened(filled) as store:
        store.count_rejections(1, "secret wrong", 3)
    (stats,) = json_lines(filled, "stats")
    assert stats.pop("unfinished_since") is not None
    assert stats.pop("body_bytes") > 0
    assert stats.pop("file_bytes") == filled.stat().st_size
    assert stats == {
        "file": str(filled.resolve()),
        "is_app_running": False,
        "leader": None,
        "unknown_handlers": {},
        "states": {"succeeded": 1, "failed": 2, "queued": 1, "unhandled": 1, "malformed": 1},
        "rejected": {"secret wrong": 3},
    }
    lock = LeaderLock(filled)
    assert lock.try_acquire()
    shown = [line.split() for line in command(filled, "stats").stdout.splitlines()]
    lock.release()
    for row in (["app", "running"], ["failed", "2"], ["secret", "wrong", "3"]):
        assert row in shown
    assert ["app", "not", "running"] in [
        line.split() for line in invoke(filled, "stats").stdout.splitlines()
    ]


# ---- the file ------------------------------------------------------------------------------------

READS: list[tuple[str, ...]] = [
    ("list",),
    ("show", "succeeded-1"),
    ("stats",),
    ("export", "succeeded-1", "--output", "-"),
    ("replay", "--failed", "--dry-run"),
    ("prune", "--older-than", "1h", "--dry-run"),
]
WRITES = [("replay", "succeeded-1"), ("prune", "--older-than", "1h")]


@pytest.mark.parametrize("words", READS, ids=lambda words: words[0])
def test_reading_does_not_change_the_file(filled: Path, words: Sequence[str]) -> None:
    before = filled.read_bytes()
    assert invoke(filled, *words).exit_code == 0
    assert filled.read_bytes() == before
    wal = Path(f"{filled}-wal")
    assert not wal.exists() or wal.stat().st_size == 0
    assert not Path(f"{filled}.runner").exists()


@pytest.mark.parametrize("words", READS + WRITES, ids=lambda words: words[0])
@pytest.mark.parametrize("content", [None, b""])
def test_missing_file_is_not_created(
    path: Path, words: Sequence[str], content: bytes | None
) -> None:
    if content is not None:
        path.write_bytes(content)
    before = list(path.parent.iterdir())
    done = invoke(path, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    shown = Text.from_ansi(done.stderr).plain
    assert f"there is no delivery store `{path}`" in shown
    # The box of the error breaks its lines.
    assert "set HUBHOOKS_DELIVERIES" in " ".join(shown.replace("│", " ").split())
    assert list(path.parent.iterdir()) == before
    assert content is None or path.read_bytes() == content


def make_text(path: Path) -> None:
    path.write_text("these are no deliveries, but a text of some length" * 10)


def make_other(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE deliveries (id TEXT)")
    connection.close()


def make_newer(path: Path) -> None:
    with opened(path) as store:
        accept(store, "succeeded-1")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def make_older(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA user_version = 1")
        connection.execute(f"PRAGMA application_id = {0x48754832}")
    connection.close()


@pytest.mark.parametrize("words", READS + WRITES, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (make_text, 1, "is not an SQLite file: give another path"),
        (make_other, 2, "belongs to another program"),
        (make_newer, 2, "was written by a newer hubhooks (format 99"),
        (make_older, 1, "has an older format: start the app with this version"),
        (Path.mkdir, 2, "is a folder: give the path of a file"),
    ],
)
def test_file_of_another_format_is_not_changed(
    path: Path,
    words: Sequence[str],
    make: Callable[[Path], None],
    code: int,
    message: str,
) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else None
    done = invoke(path, *words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in Text.from_ansi(done.stderr).plain
    assert before is None or path.read_bytes() == before


def test_deliveries_in_memory_cannot_be_read() -> None:
    done = invoke(Path(":memory:"), "list")
    assert done.exit_code == 2
    assert "stores its deliveries in memory" in Text.from_ansi(done.stderr).plain


def test_path_below_a_file_is_an_error(filled: Path) -> None:
    done = invoke(filled / "x", "list")
    assert done.exit_code == 2
    assert "Not a directory" in Text.from_ansi(done.stderr).plain


@pytest.mark.slow
def test_file_comes_from_option_variable_or_folder(filled: Path, tmp_path: Path) -> None:
    def ids(**options: Any) -> int:
        words = [sys.executable, "-m", "hubhooks.cli", "deliveries", "list", "--json"]
        words += options.pop("words", [])
        environment = {**ENVIRONMENT, **options.pop("environment", {})}
        environment["PYTHONPATH"] = str(ROOT / "python")
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, check=False, **options
        )
        return len(done.stdout.splitlines())

    variable = {"HUBHOOKS_DELIVERIES": str(tmp_path / "none.db")}
    assert ids(cwd=tmp_path) == 6
    assert ids(cwd=tmp_path, environment=variable) == 0
    assert ids(cwd=tmp_path, environment=variable, words=["--file", str(filled)]) == 6
