"""The quickstart shows the output of its commands."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest
from servers import ROOT, SECRET, started
from test_console import at_terminal

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [code for name, code in BLOCKS if name == language]


def without_values(text: str) -> str:
    """Return the text without colours, rules, ids and times, which differ in each run."""
    text = re.sub(r"\x1b\[[\d;]*m|─", "", text)
    text = re.sub(r"\b[0-9a-f]{8}\b", "ID", text)
    return " ".join(re.sub(r"\b\d+(\.\d|s)(?=\s)", "N", text).split())


@pytest.mark.parametrize("columns", [80, 100])
def test_quickstart_shows_output_of_its_commands(tmp_path: Path, columns: int) -> None:
    pytest.importorskip("huggingface_hub")
    install_and_serve, send, show, use_id = blocks("sh")
    started_line, sent, listed = blocks("console")
    (reply,) = blocks("text")
    assert install_and_serve.splitlines()[1] == f"WEBHOOK_SECRET={SECRET} uvicorn app:hooks"
    (code,) = blocks("python")
    serve = ("-m", "uvicorn", "app:hooks", "--port", "{port}")
    environ = {"HF_TOKEN": None, "HUBHOOKS_DELIVERIES": "hubhooks.db"}
    with started(tmp_path, *serve, script=code, environ=environ) as server:
        url = "http://127.0.0.1:8000"
        assert started_line.replace(url, server.url).strip() in server.wait_for("CTRL+C")
        secret, program, *words = shlex.split(send.replace(url, server.url))
        assert (secret, program) == (f"WEBHOOK_SECRET={SECRET}", "hubhooks")
        lines = at_terminal(tmp_path, *words, columns=columns)
        assert without_values("\n".join(lines)) == without_values(sent)
        server.wait_for(reply.strip())
        server.wait_for("succeeded")
        lines = at_terminal(tmp_path, *shlex.split(show)[1:], columns=columns)
        assert without_values("\n".join(lines)) == without_values(listed)
        known = re.search(r"[0-9a-f]{8}", "\n".join(lines))
        assert known is not None
        show_one, replay = (shlex.split(line, comments=True) for line in use_id.splitlines())
        for words in (show_one, replay):
            assert words.pop() == "59d9"
            lines = at_terminal(tmp_path, *words[1:], known[0], columns=columns)
            assert "succeeded" in "\n".join(lines)
        assert server.wait_for(reply.strip()).count(reply.strip()) == 2
