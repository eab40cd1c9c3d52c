"""Install a built wheel into an environment of its own, without extras, and read an event there.

Run by `make wheel-check`: the sources are out of reach, so what is tested is what ships.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CHECK = """
import importlib.util, sys
from hubhooks import ContentEvent, HubEvent, Verifier, Webhooks
from hubhooks._samples import compact, sample_json, sample_names

for name in sample_names():
    HubEvent.from_json(compact(sample_json(name)))
event = HubEvent.from_json(compact(sample_json("repo.content.update")))
assert isinstance(event, ContentEvent), event
Verifier("tide").verify("tide")
# Found only: to import it takes pytest.
assert importlib.util.find_spec("pytest_hubhooks")
Webhooks()
loaded = {"fastapi", "starlette", "gradio", "pydantic", "sqlite3", "typer"} & set(sys.modules)
assert not loaded, loaded
print("the wheel reads", len(sample_names()), "samples:", event)
"""


def main() -> None:
    """Check the newest wheel of the folder given on the command line."""
    wheels = sorted(Path(sys.argv[1]).glob("*.whl"), key=lambda wheel: wheel.stat().st_mtime)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "bin", "python"))
        install = [python, "-m", "pip", "install", "--quiet", "--no-index", str(wheels[-1])]
        subprocess.run(install, check=True)
        subprocess.run([python, "-I", "-c", CHECK], check=True, cwd=folder)
    print(wheels[-1].name, f"{wheels[-1].stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
