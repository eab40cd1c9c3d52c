"""A store belongs to one app: all forms of the app share it, and other apps are rejected."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from servers import UVICORN, Server, started

from hubhooks import Webhooks
from hubhooks._app_code import AppCode, AppIdentity, find_app_code
from hubhooks._samples import compact, sample_json
from hubhooks._store.files import LeaderFile
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

BODY = compact(sample_json("repo.content.update"))
ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": None}
PORT = ("--port", "{port}")
APP = """
from fastapi import FastAPI
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content")
def {handler}(event): ...

app = FastAPI()
app.include_router(hooks.router("/"))

if __name__ == "__main__":
    import sys, uvicorn
    uvicorn.run(app, port=int(sys.argv[1]))
"""


def write_app(folder: Path, name: str = "app", handler: str = "own") -> None:
    (folder / f"{name}.py").write_text(APP.replace("{handler}", handler), "utf-8")


def deliver(server: Server, delivery_id: str) -> None:
    response = server.post("/", BODY, headers={"Webhook-Id": delivery_id})
    assert response.status_code == 202, response.text
    assert response.json()["handlers"] == ["own"]


def store_of(folder: Path) -> SqliteStore:
    return SqliteStore(folder / "hubhooks.db")


def wait_until_done(server: Server, *delivery_ids: str) -> None:
    store = store_of(server.folder)
    for delivery_id in delivery_ids:
        server.wait_until(
            lambda name=delivery_id: getattr(store.get(name), "state", "") == "succeeded",
            f"does not run {delivery_id}",
        )


async def start_and_stop(hooks: Webhooks) -> None:
    async with hooks.lifespan(None):
        pass


def test_second_app_in_one_folder_is_rejected(tmp_path: Path) -> None:
    write_app(tmp_path)
    write_app(tmp_path, "app2", "other")
    with started(tmp_path, "-m", "uvicorn", "app:hooks", *PORT, environ=ON_DISK) as first:
        command = ("-m", "uvicorn", "app2:hooks", *PORT)
        with started(tmp_path, *command, prints="startup failed", environ=ON_DISK) as second:
            assert second.wait() != 0
            output = second.output()
        assert (
            f"the delivery store `{tmp_path / 'hubhooks.db'}` belongs to the app `app.py`" in output
        )
        assert "this is `app2.py`" in output
        assert 'Webhooks(deliveries="other.db")' in output
        assert "stop `app.py`, then start it once with HUBHOOKS_ADOPT_STORE=1" in output
        deliver(first, "d1")
        wait_until_done(first, "d1")


def test_rejected_app_does_not_look_crashed(tmp_path: Path) -> None:
    store = tmp_path / "hubhooks.db"
    own, other = (Webhooks("moon", deliveries=store, app_name=name) for name in ("own", "other"))
    asyncio.run(start_and_stop(own))
    with pytest.raises(ConfigError, match="belongs to the app `own`"):
        asyncio.run(start_and_stop(other))
    known = LeaderFile.read(str(store))
    assert known is not None
    assert known.is_closed


FORMS = {
    "python app.py": ("app.py", "{port}"),
    "uvicorn app:hooks": ("-m", "uvicorn", "app:hooks", *PORT),
    "uvicorn app:app": ("-m", "uvicorn", "app:app", *PORT),
    "uvicorn --reload": ("-m", "uvicorn", "app:app", "--reload", *PORT),
    "uvicorn --workers": ("-m", "uvicorn", "app:app", "--workers", "2", *PORT),
    "gunicorn": (
        "-m", "gunicorn", "app:app", "-k", "uvicorn_worker.UvicornWorker", "-w", "2",
        "-b", "127.0.0.1:{port}",
    ),
    "gunicorn --preload": (
        "-m", "gunicorn", "app:app", "-k", "uvicorn_worker.UvicornWorker", "-w", "2", "--preload",
        "-b", "127.0.0.1:{port}",
    ),
}  # fmt: skip


def test_all_forms_of_one_app_share_its_store(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    write_app(tmp_path)
    for number, command in enumerate(FORMS.values()):
        with started(tmp_path, *command, environ=ON_DISK) as server:
            deliver(server, f"d{number}")
            wait_until_done(server, f"d{number}")


def test_project_copied_with_its_store_is_the_same_app(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    write_app(old)
    for folder in (old, new):
        if folder is new:
            shutil.copytree(old, new)
        with started(folder, *UVICORN, environ=ON_DISK) as server:
            deliver(server, folder.name)
            wait_until_done(server, folder.name)
    assert {delivery.id for delivery in store_of(new).list()} == {"old", "new"}


def test_project_moved_without_its_store_is_the_same_app(tmp_path: Path) -> None:
    disk = {"HUBHOOKS_DELIVERIES": str(tmp_path / "hubhooks.db")}
    for name in ("release-1", "release-2"):
        folder = tmp_path / name
        folder.mkdir()
        write_app(folder)
        with started(folder, *UVICORN, environ=disk) as server:
            deliver(server, name)
            if name == "release-2":
                server.wait_for("moved from `release-1/app.py` to `release-2/app.py`")
        shutil.rmtree(folder)
    assert {delivery.id for delivery in store_of(tmp_path).list()} == {"release-1", "release-2"}


def test_two_projects_with_one_store_are_two_apps(tmp_path: Path) -> None:
    disk = {"HUBHOOKS_DELIVERIES": str(tmp_path / "hubhooks.db")}
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        write_app(folder)
    (two / "app.py").write_text((one / "app.py").read_text("utf-8") + "# of another bot\n", "utf-8")
    with started(one, *UVICORN, environ=disk):
        pass
    with started(two, *UVICORN, prints="startup failed", environ=disk) as server:
        server.wait_for("belongs to the app `one/app.py`, and this is `two/app.py`")
    same_name = {**disk, "HUBHOOKS_APP_NAME": "one/app.py"}
    with started(two, *UVICORN, environ=same_name) as server:
        deliver(server, "d1")


# ---- the store ----------------------------------------------------------------------------------


def identity(name: str | None, file: str | None = None, *, adopt: bool = False) -> AppIdentity:
    return AppIdentity(AppCode(file, 0.0), name, adopt)


def open_as(path: Path, app: AppIdentity, lock: LeaderLock | None = None) -> None:
    store = SqliteStore(path, app=app, lock=lock)
    store.open()
    store.close()


def test_store_of_another_app_is_adopted_on_request(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_as(path, identity("first"))
    with pytest.raises(ConfigError, match=r"belongs to the app `first`, and this is `second`"):
        open_as(path, identity("second"))
    open_as(path, identity("second", adopt=True))
    open_as(path, identity("second"))
    with pytest.raises(ConfigError, match="belongs to the app `second`"):
        open_as(path, identity("first"))


def test_store_in_use_is_not_adopted(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_as(path, identity("first"))
    lock = LeaderLock(path)
    assert lock.try_acquire()
    try:
        with pytest.raises(ConfigError, match="stop `first`, then start it once"):
            open_as(path, identity("second", adopt=True), LeaderLock(path))
    finally:
        lock.release()
    open_as(path, identity("second", adopt=True), LeaderLock(path))


def test_store_without_app_is_claimed_by_the_first_one(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    store = SqliteStore(path)
    store.open()
    store.close()
    open_as(path, identity("first"))
    with pytest.raises(ConfigError):
        open_as(path, identity("second"))


def test_store_of_another_app_takes_no_deliveries(tmp_path: Path) -> None:
    path, other = tmp_path / "x.db", tmp_path / "other.db"
    open_as(other, identity("other"))
    store = SqliteStore(path, app=identity("own"))
    store.open()
    other.rename(path)
    for _ in range(2):
        with pytest.raises(StoreError, match="replaced by the store of another app, `other`"):
            store.accept("d1", b"{}", ["a"])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM deliveries").fetchone() == (0,)
    store.close()


def test_app_has_the_name_of_its_file(tmp_path: Path) -> None:
    class Own(Webhooks):
        def __init__(self) -> None:
            super().__init__("moon")
            self.more = 1

    script = tmp_path / "script.py"
    scope = {"__file__": str(script), "Webhooks": Webhooks, "Own": Own}
    exec("made = [Webhooks('moon'), Own()]", scope)  # as Gradio reloads a script
    made = scope["made"]
    assert isinstance(made, list)
    codes = [hooks._code for hooks in made]  # noqa: SLF001 - it shows in the store's name only
    assert [code.file for code in codes] == [str(script)] * 2
    assert codes[0].name_beside(str(tmp_path / "x.db")) == "script.py"
    assert codes[0].name_beside(str(tmp_path / "data" / "x.db")) == "../script.py"


def test_interactive_code_has_its_own_name(tmp_path: Path) -> None:
    scope = {"find": find_app_code}
    exec("code = find(object())", scope)  # as a notebook does
    code = scope["code"]
    assert isinstance(code, AppCode)
    assert code.name_beside(str(tmp_path / "x.db")) == "(interactive)"
    assert code.version() != AppCode(None, 1.0).version()


@pytest.mark.parametrize("name", ["", 3, "a\nb"])
def test_unprintable_name_is_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a name"):
        Webhooks("moon", app_name=name)


def test_adoption_variable_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HUBHOOKS_ADOPT_STORE", "perhaps")
    hooks = Webhooks("moon", deliveries=tmp_path / "x.db")
    with pytest.raises(ConfigError, match="HUBHOOKS_ADOPT_STORE"):
        _ = hooks.store


def test_factory_belongs_to_the_module_that_calls_it(tmp_path: Path) -> None:
    (tmp_path / "common.py").write_text(
        "from hubhooks import Webhooks\n\n\ndef make():\n    return Webhooks('moon')\n"
    )
    for name in ("app", "app2"):
        (tmp_path / f"{name}.py").write_text("from common import make\n\napp = make()\n")
    with started(tmp_path, *UVICORN, environ=ON_DISK):
        pass
    command = ("-m", "uvicorn", "app2:app", *PORT)
    with started(tmp_path, *command, prints="startup failed", environ=ON_DISK) as second:
        second.wait_for("belongs to the app `app.py`, and this is `app2.py`")


def test_copy_beside_the_project_is_the_same_app(tmp_path: Path) -> None:
    disk = {"HUBHOOKS_DELIVERIES": str(tmp_path / "hubhooks.db")}
    for name in ("release-1", "release-2"):
        folder = tmp_path / name
        folder.mkdir()
        write_app(folder)
        with started(folder, *UVICORN, environ=disk) as server:
            deliver(server, name)
    assert {delivery.id for delivery in store_of(tmp_path).list()} == {"release-1", "release-2"}
