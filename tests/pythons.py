"""Find programs that run: Pythons of other versions, with an environment for each, and browsers."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from servers import PATIENCE, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Some builds lack these modules, and no environment can be made or used without them.
_REPORT = """
import ensurepip, sqlite3, ssl, sys, venv
print(sys.executable, *sys.version_info[:3], sep="\\n")
"""


def find_python(version: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the newest working interpreter of a version such as `3.10`, or None.

    A file of the right name is not enough: a pyenv shim of a version that is not selected exists
    and fails. So each candidate has to run and report its version.
    """
    found = [
        (release, python)
        for candidate in _candidates(version, environ)
        if (reported := _report(candidate, environ)) is not None
        for python, release in [reported]
        if ".".join(map(str, release[:2])) == version
    ]
    return max(found)[1] if found else None


def environment(version: str, *requirements: str) -> Path:
    """Return the interpreter of a cached environment with these packages.

    Skips the test if there is no such Python, or if the packages cannot be installed.
    """
    folder = ROOT / ".venv" / "-".join(("integrations", version, *requirements))
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        # Two workers may need the same environment at the same time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _make(folder, version, *requirements)


def _make(folder: Path, version: str, *requirements: str) -> Path:
    python, is_made = folder / "bin" / "python", folder / "made"
    # The interpreter of an older environment may be gone.
    if is_made.exists() and _report(python, os.environ) is not None:
        return python
    base = find_python(version)
    if base is None:
        pytest.skip(f"there is no Python {version} that runs")
    subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet", *requirements]
    if subprocess.run(install, check=False).returncode:
        pytest.skip(f"{' '.join(requirements)} cannot be installed for Python {version}")
    is_made.touch()
    return python


def find_chromium() -> str | None:
    """Return a Chromium that runs; some systems have a stub that asks for a package."""
    found = shutil.which("chromium")
    if found is None:
        return None
    run = subprocess.run([found, "--version"], capture_output=True, timeout=PATIENCE, check=False)
    return None if run.returncode else found


def _candidates(version: str, environ: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environ.get("HOME") or Path.home())
    for root in dict.fromkeys(
        (Path(environ.get("PYENV_ROOT") or home / ".pyenv"), home / ".pyenv")
    ):
        yield from root.glob(f"versions/{version}.*/bin/python")
    for folder in environ.get("PATH", "").split(os.pathsep):
        if (python := Path(folder, f"python{version}")).is_file():
            yield python


def _report(python: Path, environ: Mapping[str, str]) -> tuple[Path, tuple[int, int, int]] | None:
    """Return where an interpreter is and its version, or None if it does not run."""
    try:
        run = subprocess.run(
            [python, "-I", "-c", _REPORT],
            env=environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        executable, *numbers = run.stdout.split("\n")[:4]
        major, minor, micro = map(int, numbers)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Path(executable), (major, minor, micro)
