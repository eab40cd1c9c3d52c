"""The check that a test leaves no thread and no process running."""

from __future__ import annotations

import subprocess
import sys
import threading

import leaks
import pytest
from leaks import Resources

WAITS = "import sys; sys.stdin.read()"


def test_thread_that_still_runs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "ENDS_WITHIN", 0)
    before, may_end = Resources.current(), threading.Event()
    thread = threading.Thread(target=may_end.wait, name="tide")
    thread.start()
    (left,) = before.started_since()
    assert "tide" in left
    may_end.set()
    thread.join()
    assert before.started_since() == []


def test_daemon_thread_may_stay() -> None:
    before, may_end = Resources.current(), threading.Event()
    threading.Thread(target=may_end.wait, daemon=True).start()
    assert before.started_since() == []
    may_end.set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists child processes in files")
def test_child_process_that_still_runs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "ENDS_WITHIN", 0)
    before = Resources.current()
    with subprocess.Popen([sys.executable, "-c", WAITS], stdin=subprocess.PIPE) as process:
        (left,) = before.started_since()
        assert left.startswith(f"process {process.pid}: ")
    assert before.started_since() == []


def test_ending_thread_is_awaited() -> None:
    before, may_end = Resources.current(), threading.Event()
    threading.Thread(target=may_end.wait).start()
    threading.Timer(0.05, may_end.set).start()
    assert before.started_since() == []
