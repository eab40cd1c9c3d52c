"""Location of the delivery store: file systems, unusual paths, and a removed folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE
from test_cli import ENVIRONMENT

from hubhooks import Webhooks
from hubhooks._store import file_systems
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="paths as Linux has them")

# ---- kinds of file systems ---------------------------------------------------------------------

LOCAL = (
    "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "virtiofs", "fuseblk", "fuseblk.ntfs-3g",
    "fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.encfs", "fuse.cryfs", "fuse.securefs",
    "fuse.mergerfs", "fuse.mhddfs", "fuse.unionfs", "fuse.unionfs-fuse", "fuse.bindfs",
    "fuse.ntfs-3g", "fuse.lowntfs-3g", "fuse.ntfs", "fuse.exfat", "fuse.exfat-fuse",
    "fuse.fuse2fs", "fuse.fuseext2", "fuse.fuse-ext2", "fuse.ext4", "fuse.lxcfs",
)  # fmt: skip
REMOTE = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "glusterfs", "davfs2",
    "vboxsf", "orangefs", "fuse", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse",
    "fuse.glusterfs", "fuse.ceph", "fuse.cephfs", "fuse.hf-mount", "fuse.juicefs", "fuse.davfs",
    "fuse.blobfuse2", "fuse.vmhgfs-fuse", "fuse.gvfsd-fuse", "fuse.grpcfuse",
    # A file system with an unknown name may be remote.
    "fuse.unknown", "fuse.bindfs-over-ssh", "fuse.mergerfsx",
)  # fmt: skip


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the mount table of the kernel."""
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(file_systems, "_MOUNTS", mounts)

    def mount(*lines: str | bytes) -> None:
        whole = [os.fsencode(line) if isinstance(line, str) else line for line in lines]
        mounts.write_bytes(b"\n".join(whole) + b"\n")

    return mount


def line(point: object, kind: str) -> str:
    return f"22 1 0:21 / {point} rw,relatime shared:1 - {kind} source rw"


def open_error(path: Path, **options: Any) -> str:
    """Open a store, and return the error message; empty without an error."""
    store = SqliteStore(path, **options)
    try:
        store.open()
    except ConfigError as error:
        return str(error)
    store.close()
    return ""


@needs_linux
@pytest.mark.parametrize("kind", LOCAL)
def test_local_file_system_is_accepted(
    tmp_path: Path, mount: Callable[..., None], kind: str
) -> None:
    mount(line("/", "nfs4"), line(tmp_path, kind))
    assert open_error(tmp_path / "x.db") == ""


@needs_linux
@pytest.mark.parametrize("kind", REMOTE)
def test_possibly_remote_file_system_is_rejected_with_advice(
    tmp_path: Path, mount: Callable[..., None], kind: str
) -> None:
    mount(line("/", "ext4"), line(tmp_path, kind))
    message = open_error(tmp_path / "x.db")
    assert f"`{tmp_path}/x.db` is on a network file system ({kind})" in message
    assert "`allow_network=True`" in message
    assert "HUBHOOKS_ALLOW_NETWORK=1" in message
    assert not (tmp_path / "x.db").exists()
    assert open_error(tmp_path / "x.db", allow_network=True) == ""


@needs_linux
@pytest.mark.parametrize(
    "odd",
    [
        "", " ", "22", "22 1 0:21 /", "no separator at all in this line of the file",
        "22 1 0:21 / /data rw", "22 1 0:21 / /data rw -", "22 1 0:21 / /data rw - ",
        " - nfs source rw", "22 1 - nfs source rw", "22 1 0:21 / - nfs source rw",
        "22 1 0:21 / \\999\\400\\08 rw - nfs source rw", "\\", b"\xff\xfe\x00 - \xff \xff",
        b"22 1 0:21 / /\xff\xfe rw - nfs source rw", "\0" * 50,
    ],
)  # fmt: skip
def test_malformed_mount_line_is_skipped(
    tmp_path: Path, mount: Callable[..., None], odd: str | bytes
) -> None:
    mount(odd, line("/", "ext4"), odd)
    assert open_error(tmp_path / "x.db") == ""
    mount(odd, line("/", "ext4"), odd, line(tmp_path, "nfs"), odd)
    assert "network file system (nfs)" in open_error(tmp_path / "x.db")


@needs_linux
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xff", b"one line without an end"])
def test_unreadable_mounts_allow_every_path(
    tmp_path: Path, mount: Callable[..., None], content: bytes
) -> None:
    mount(content)
    assert open_error(tmp_path / "x.db") == ""


@needs_linux
@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("my disk", "my\\040disk"),
        ("a\tb\nc\\d", "a\\011b\\012c\\134d"),
        ("#1", "\\0431"),
        ("überall", "überall"),
        ("überall", "\\303\\274berall"),
        # Line ends and spaces for Python that the kernel does not escape.
        ("a\x0b\x0c\x1cb", "a\x0b\x0c\x1cb"),
        ("a\x85b\u2028c\u00a0d", "a\x85b\u2028c\u00a0d"),
        (os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xe9")),
        ("a - b", "a\\040-\\040b"),
    ],
)
def test_mount_point_with_unusual_characters_is_found(
    tmp_path: Path, mount: Callable[..., None], name: str, written: str
) -> None:
    (tmp_path / name).mkdir()
    mount(line("/", "ext4"), line(f"{tmp_path}/{written}", "nfs"))
    assert "network file system (nfs)" in open_error(tmp_path / name / "x.db")
    assert open_error(tmp_path / "x.db") == ""


@needs_linux
def test_deepest_mount_decides(tmp_path: Path, mount: Callable[..., None]) -> None:
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "database").mkdir()
    # In any order; a name that only begins like a mount point is not below it.
    mount(
        line(f"{tmp_path}/data/inner", "ext4"), line(f"{tmp_path}/data", "nfs"), line("/", "ext4")
    )
    assert "(nfs)" in open_error(tmp_path / "data" / "x.db")
    assert open_error(tmp_path / "data" / "inner" / "x.db") == ""
    assert open_error(tmp_path / "database" / "x.db") == ""


@needs_linux
def test_later_mount_at_the_same_point_decides(tmp_path: Path, mount: Callable[..., None]) -> None:
    mount(line(tmp_path, "nfs"), line(tmp_path, "ext4"))
    assert open_error(tmp_path / "x.db") == ""
    mount(line(tmp_path, "ext4"), line(tmp_path, "nfs"))
    assert "(nfs)" in open_error(tmp_path / "x.db")


@needs_linux
def test_link_to_a_mount_is_followed(tmp_path: Path, mount: Callable[..., None]) -> None:
    (tmp_path / "remote").mkdir()
    (tmp_path / "folder").symlink_to("remote")
    # The file is created at the target of the link.
    (tmp_path / "dangling.db").symlink_to("remote/x.db")
    mount(line("/", "ext4"), line(f"{tmp_path}/remote", "nfs"))
    for path in ("folder/x.db", "dangling.db"):
        assert f"`{tmp_path}/remote/x.db` is on a network" in open_error(tmp_path / path)


@needs_linux
def test_mounts_of_file_and_folder_both_count(tmp_path: Path, mount: Callable[..., None]) -> None:
    (tmp_path / "x.db").touch()
    mount(line("/", "ext4"), line(f"{tmp_path}/x.db", "nfs"))
    assert "(nfs)" in open_error(tmp_path / "x.db")
    # The `-wal` file is in the folder.
    mount(line("/", "nfs"), line(f"{tmp_path}/x.db", "ext4"))
    assert "(nfs)" in open_error(tmp_path / "x.db")
    mount(line("/", "ext4"), line(f"{tmp_path}/x.db", "xfs"))
    assert open_error(tmp_path / "x.db") == ""


# ---- HUBHOOKS_ALLOW_NETWORK --------------------------------------------------------------------


def opened_by(hooks: Webhooks) -> str:
    """Open the store of an app, and return the error message; empty without an error."""
    store = hooks.store
    try:
        store.open()
    except ConfigError as error:
        return str(error)
    store.close()
    return ""


@needs_linux
@pytest.mark.parametrize("given", ["1", "true", "True", "YES", "yes", " on "])
def test_variable_allows_a_network_file_system(
    tmp_path: Path, mount: Callable[..., None], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    mount(line(tmp_path, "nfs"))
    monkeypatch.setenv("HUBHOOKS_ALLOW_NETWORK", given)
    assert opened_by(Webhooks("moon", deliveries=tmp_path / "x.db")) == ""
    # The argument has priority.
    hooks = Webhooks("moon", deliveries=tmp_path / "x.db", allow_network=False)
    assert "network file system (nfs)" in opened_by(hooks)


@needs_linux
@pytest.mark.parametrize("given", [None, "", "0", "false", "No", "off"])
def test_network_file_system_is_rejected_without_the_variable(
    tmp_path: Path, mount: Callable[..., None], monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    mount(line(tmp_path, "nfs"))
    if given is None:
        monkeypatch.delenv("HUBHOOKS_ALLOW_NETWORK", raising=False)
    else:
        monkeypatch.setenv("HUBHOOKS_ALLOW_NETWORK", given)
    hooks = Webhooks("moon", deliveries=tmp_path / "x.db")
    assert "network file system (nfs)" in opened_by(hooks)
    assert opened_by(Webhooks("moon", deliveries=tmp_path / "x.db", allow_network=True)) == ""


@pytest.mark.parametrize("given", ["2", "maybe", "ture", "/data"])
def test_invalid_variable_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("HUBHOOKS_ALLOW_NETWORK", given)
    hooks = Webhooks("moon", deliveries=tmp_path / "x.db")
    with pytest.raises(ConfigError, match=r"HUBHOOKS_ALLOW_NETWORK is .*; write 1 or 0"):
        _ = hooks.store


# ---- a working directory that is gone ----------------------------------------------------------

IN_A_REMOVED_FOLDER = """
import os, sys

folder = sys.argv[1]
os.mkdir(folder)
os.chdir(folder)
os.rmdir(folder)
sys.argv[1:] = sys.argv[2:]
"""


def in_a_removed_folder(tmp_path: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process whose working directory is removed."""
    return subprocess.run(
        [sys.executable, "-c", IN_A_REMOVED_FOLDER + code, tmp_path / "removed", *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**ENVIRONMENT, "WEBHOOK_SECRET": "moon"},
    )


START = """
import asyncio
from hubhooks import Webhooks

async def start():
    async with Webhooks(**({"deliveries": sys.argv[1]} if sys.argv[1:] else {})).lifespan(None):
        print("started")

asyncio.run(start())
"""


@needs_linux
@pytest.mark.parametrize("words", [[], ["x.db"], ["data/x.db"]])
def test_start_in_a_removed_folder_is_an_error(tmp_path: Path, words: list[str]) -> None:
    done = in_a_removed_folder(tmp_path, START, *words)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("hubhooks.errors.ConfigError: ")
    assert f"`{words[0] if words else 'hubhooks.db'}`" in last
    assert "the working directory, which was removed" in last
    assert "give an absolute path" in last


@needs_linux
def test_absolute_path_works_in_a_removed_folder(tmp_path: Path) -> None:
    done = in_a_removed_folder(tmp_path, START, str(tmp_path / "x.db"))
    (warning,) = (line for line in done.stderr.splitlines() if not line.startswith("INFO"))
    assert warning.startswith("WARNING:  hubhooks started with no handlers")
    assert done.stdout == "started\n"


COMMAND = """
from hubhooks.cli import main

main()
"""


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize(
    "words",
    [
        ["list"], ["list", "--file", "x.db"], ["show", "d1"], ["replay", "d1"], ["export", "d1"],
        ["stats"], ["prune", "--older-than", "1d"],
    ],
)  # fmt: skip
def test_commands_in_a_removed_folder_are_errors(tmp_path: Path, words: list[str]) -> None:
    done = in_a_removed_folder(tmp_path, COMMAND, "deliveries", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "the working directory, which was removed" in " ".join(done.stderr.split())


@needs_linux
def test_commands_take_an_absolute_path_in_a_removed_folder(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "x.db")
    store.open()
    store.accept("d1", b"{}", ["a"])
    store.close()
    file = ("--file", str(tmp_path / "x.db"))
    done = in_a_removed_folder(tmp_path, COMMAND, "deliveries", "list", *file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "d1" in done.stdout
    done = in_a_removed_folder(tmp_path, COMMAND, "deliveries", "export", "d1", *file)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot write `d1.json`" in done.stderr


# ---- odd paths ---------------------------------------------------------------------------------


def test_path_with_a_zero_byte_is_rejected(tmp_path: Path) -> None:
    for make in (SqliteStore, LeaderLock):
        with pytest.raises(ConfigError, match="has a zero byte in its path"):
            make(tmp_path / "x\0.db")
    with pytest.raises(ConfigError, match="has a zero byte in its path"):
        _ = Webhooks("moon", deliveries="x\0.db").deliveries


@needs_linux
def test_circular_links_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path / "a", tmp_path / "a" / "x.db"):
        with pytest.raises(ConfigError, match="cannot be"):
            SqliteStore(path).open()


@needs_linux
def test_too_long_name_is_rejected(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), Path("/" + "x/" * 3000 + "x.db")):
        assert "cannot be created (file name too long)" in open_error(path)


@needs_linux
@pytest.mark.parametrize("suffix", ["", ".runner"])
def test_other_file_types_are_rejected(tmp_path: Path, suffix: str) -> None:
    """A pipe would take writes or block; SQLite would make files beside a device."""
    path = tmp_path / "x.db"
    os.mkfifo(f"{path}{suffix}")

    def use() -> None:
        if suffix:
            LeaderLock(path).try_acquire()
        else:
            SqliteStore(path).open()

    with pytest.raises(ConfigError, match="is not a regular file"):
        use()


@needs_linux
def test_device_and_socket_are_rejected_and_unchanged(tmp_path: Path) -> None:
    assert "`/dev/null` is not a regular file" in open_error(Path("/dev/null"))
    assert not Path("/dev/null-wal").exists()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert "is not a regular file" in open_error(tmp_path / "s")


@needs_linux
@pytest.mark.parametrize("path", ["/dev/null", "pipe"])
def test_command_rejects_other_file_types(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = subprocess.run(
        [sys.executable, "-m", "hubhooks.cli", "deliveries", "list", "--file", path],
        check=False, capture_output=True, text=True, timeout=PATIENCE, env=ENVIRONMENT,
        cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not a regular file" in done.stderr


WITHOUT_PERMISSION = """
import os, sys
from hubhooks.errors import ConfigError
from hubhooks._store.sqlite import SqliteStore

if os.getuid() == 0:
    os.setuid(65534)
try:
    SqliteStore(sys.argv[1]).open()
except ConfigError as error:
    print(error)
"""


@needs_linux
def test_folder_without_permission_is_rejected() -> None:
    # Not in `tmp_path`, which no other user may enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_PERMISSION, Path(folder, "x.db")],
            check=False, capture_output=True, text=True, timeout=PATIENCE, env=ENVIRONMENT,
        )  # fmt: skip
        Path(folder).chmod(0o700)
    assert "x.db` cannot be created (permission denied)" in done.stdout, done.stderr
