"""A process ends as it should while daemon threads use the compiled classes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from servers import PATIENCE

# The main thread ends once each daemon thread has called the function some hundred times.
SCRIPT = """
import sys, threading, time, warnings
from collections.abc import Mapping, Sequence
from hubhooks import CommentEvent, Filter, HubEvent, Verifier
from hubhooks._samples import sample_json
from hubhooks.errors import HubHooksError

THREADS = 4
verifier = Verifier("tide")
files = HubEvent.from_dict(sample_json("repo.content.update.bucket")).updated_files
warnings.simplefilter("always")
warnings.showwarning = lambda *args, **options: None
calls = [0] * THREADS

class Plain(Mapping):
    def __init__(self, pairs):
        self.pairs = dict(pairs)
    def __getitem__(self, key):
        return self.pairs[key]
    def __iter__(self):
        for key in self.pairs:
            yield key
    def __len__(self):
        return len(self.pairs)

class Repos(Sequence):
    def __getitem__(self, index):
        return ["a/b"][index]
    def __len__(self):
        return 1

class Index:
    def __index__(self):
        return sum(range(3)) * 0

def pairs():
    for pair in [("x-webhook-secret", "tide"), ("host", "example.org")]:
        yield pair

def repeat(number):
    call = eval("lambda: " + sys.argv[1])
    while True:
        try:
            call()
        except HubHooksError:
            pass
        calls[number] += 1

for number in range(THREADS):
    threading.Thread(target=repeat, args=(number,), daemon=True).start()
while min(calls) < 500:
    time.sleep(0.01)
"""

CALLS = [
    "HubEvent.from_json(b'{')",
    "HubEvent.from_json('[]')",
    'HubEvent.from_json(b\'{"event": {"action": "update", "scope": "repo"}}\').repo',
    'CommentEvent.from_json(b\'{"event": {"action": "update", "scope": "repo"}}\')',
    "HubEvent.from_dict({})",
    "HubEvent.from_dict({'x': {1}})",
    "HubEvent.from_dict(Plain({'event': Plain({})}))",
    "HubEvent.from_env(Plain({}))",
    "HubEvent.from_env(Plain({'WEBHOOK_PAYLOAD': '{'}))",
    "Verifier('')",
    "verifier.verify('ebb')",
    "verifier.verify_request(Plain(pairs()))",
    "verifier.verify_request(Plain({}))",
    "verifier.verify_request(pairs())",
    "verifier.verify_request([iter(pair) for pair in pairs()])",
    "verifier.check(Plain(pairs()))",
    "Verifier('\"tide\"')",
    "Filter('repo', repo=(repo for repo in ['a/b']))",
    "Filter('repo', repo=Repos())",
    "Filter('repo', repo=['['])",
    "files[Index()]",
    "files[Index():Index()]",
    "files.index(files[0], Index())",
]


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_exit_during_call_in_daemon_thread_does_not_abort(call):
    command = [sys.executable, "-c", SCRIPT, call]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    printed = [process.communicate(timeout=PATIENCE)[1].decode() for process in processes]
    codes = {process.returncode for process in processes}
    if sys.version_info < (3, 11):
        # CPython 3.10 sometimes crashes at exit with daemon threads, also without hubhooks.
        codes.discard(-signal.SIGSEGV)
    assert codes <= {0}, printed
