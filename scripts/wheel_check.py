"""Install a built wheel into an environment of its own, and read an event there without extras.

With `--suite` all tests then run against it, in a copy of the tree that has the content of the
wheel instead of the sources. Nothing is compiled either way.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_KB = 1_000
CHECK = """
import importlib.resources, importlib.util, sys
from hubhooks import ContentEvent, HubEvent, Verifier, Webhooks
from hubhooks._samples import compact, sample_json, sample_names

for name in sample_names():
    HubEvent.from_json(compact(sample_json(name)))
event = HubEvent.from_json(compact(sample_json("repo.content.update")))
assert isinstance(event, ContentEvent), event
Verifier("tide").verify("tide")
# Found only: to import it takes pytest.
assert importlib.util.find_spec("pytest_hubhooks")
assert importlib.resources.files("hubhooks").joinpath("page", "index.html").is_file()
# The page for coding agents.
assert importlib.resources.files("hubhooks").joinpath("SKILL.md").is_file()
Webhooks()
loaded = {"fastapi", "starlette", "gradio", "pydantic", "sqlite3", "typer"} & set(sys.modules)
assert not loaded, loaded
print("the wheel reads", len(sample_names()), "samples:", event)
"""


def main() -> None:
    """Check the wheel of a folder that fits this interpreter, and the size of all of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suite", action="store_true", help="run all tests against it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        scripts = "Scripts" if os.name == "nt" else "bin"
        python = str(folder / "venv" / scripts / "python")
        pip = [python, "-m", "pip"]
        # pip knows best which of them fits.
        choose = ["download", "--quiet", "--no-index", "--no-deps", "--only-binary", ":all:"]
        choose += ["--find-links", str(options.folder), "--dest", str(folder / "wheel")]
        subprocess.run([*pip, *choose, "hubhooks"], check=True)
        (wheel,) = (folder / "wheel").iterdir()
        subprocess.run([*pip, "install", "--quiet", "--no-index", str(wheel)], check=True)
        subprocess.run([python, "-I", "-c", CHECK], check=True, cwd=folder)
        print("tried", wheel.name, flush=True)
        if options.suite:
            run_suite(python, wheel, folder / "tree")
    check_sizes(options.folder)


def run_suite(python: str, wheel: Path, tree: Path) -> None:
    """Run the tests in a tree where the package comes from the wheel alone."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.split("\0"):
        if name and not name.startswith(("python/", "src/")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    # Where the servers look that tests start with other interpreters.
    zipfile.ZipFile(wheel).extractall(tree / "python")
    install = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "--upgrade", "pip>=25.1"], check=True)
    binaries = ["--only-binary", ":all:", f"hubhooks[test] @ {wheel.as_uri()}"]
    subprocess.run([*install, *binaries, "--group", "integrations"], check=True, cwd=tree)
    subprocess.run([python, "-m", "pytest", "-m", ""], check=True, cwd=tree)


def check_sizes(folder: Path) -> None:
    """Fail if a wheel is too large to be a small dependency."""
    sizes = {path.name: path.stat().st_size // 1_000 for path in sorted(folder.glob("*.whl"))}
    print(*(f"{size} kB  {name}" for name, size in sizes.items()), sep="\n")
    if max(sizes.values()) >= LIMIT_KB:
        sys.exit(f"a wheel should have less than {LIMIT_KB} kB")


if __name__ == "__main__":
    main()
