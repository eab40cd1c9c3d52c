"""Who may see a payload, replay a delivery, or read the store's files, in Gradio apps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from test_activity_tab import LAUNCH, PRIVATE_NAME, TOKEN, App, running
from test_gradio import ssr

pytest.importorskip("gradio")

if TYPE_CHECKING:
    from pathlib import Path

AUTH = "options = {'auth': ('ada', 'tide')}\n" + LAUNCH


def log_in(app: App) -> None:
    answer = app.client.post("/login", data={"username": "ada", "password": "tide"})
    assert answer.status_code == 200


# ---- pages of another origin -------------------------------------------------------------------


@pytest.mark.parametrize("rendered", ["by Python", "by Node"])
def test_a_page_of_another_port_reads_and_replays_nothing(tmp_path: Path, rendered: str) -> None:
    environ = ssr() if rendered == "by Node" else {}
    with running(tmp_path, AUTH, **environ) as app:
        app.wait_until_all_ended()
        log_in(app)
        host = f"127.0.0.1:{app.server.port}"
        private_id = app.deliveries()[-1]["id"]
        for origin in ("http://127.0.0.1:8000", "http://eve.127.0.0.1:8000", "null"):
            for more in ({}, {"X-Forwarded-Host": origin.removeprefix("http://")}):
                headers = {"Origin": origin, **more}
                look = app.call("look", chosen=private_id, headers=headers)
                assert look.status_code == 200
                assert PRIVATE_NAME not in look.text
                replay = app.call("replay", "sync", chosen=private_id, headers=headers)
                assert "Queued" not in replay.text
        # The app's own page, with and without what newer browsers add.
        for headers in ({"Origin": f"http://{host}"}, {"Sec-Fetch-Site": "same-origin"}, {}):
            assert PRIVATE_NAME in app.call("look", headers=headers).text


# ---- wrong admin tokens ------------------------------------------------------------------------


def test_wrong_tokens_in_the_tab_never_lock_the_right_one_out(tmp_path: Path) -> None:
    with running(tmp_path) as app:
        app.wait_until_all_ended()
        for _ in range(7):
            parts = app.parts(app.call("unlock", "wrong"))
            assert "not the token" in parts["refusal"]
            assert parts["token"] == ""
            assert PRIVATE_NAME not in str(parts)
        ticket = app.unlock("mine")
        assert ticket
        assert PRIVATE_NAME in app.call("look", session="mine", ticket=ticket).text
        assert app.server.output().count("admin token") == 2
        assert TOKEN not in app.server.output()
