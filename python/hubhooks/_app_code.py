"""Which app a `Webhooks` belongs to, and which version of its code this process runs."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["AppCode", "AppIdentity", "find_app_code"]

# If an app has more modules, only the first ones are compared.
_MAX_FILES = 2000
_VERSION_LENGTH = 8
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_NO_FILE = "(interactive)"
# Where Python's own modules are.
_LIBRARY = Path(os.__file__).parent


class AppCode(NamedTuple):
    """The file that creates a `Webhooks`, and when it was executed."""

    file: str | None
    """Its real path; None in a notebook or a shell."""
    loaded_at: float
    """When the `Webhooks` was created, in seconds since 1970."""
    order: float = 0.0
    """The same time by a clock that nobody sets, if there is one. It is larger for newer code."""

    def name_beside(self, store: str) -> str:
        """Return the file as seen from the folder of a store: the default name of the app.

        A project keeps its name if it is copied together with its store.
        """
        if self.file is None:
            return _NO_FILE
        try:
            return Path(os.path.relpath(self.file, Path(store).parent)).as_posix()
        except ValueError:  # on another drive
            return Path(self.file).as_posix()

    def version(self) -> str:
        """Return a short hash of the app's modules that are loaded now."""
        import hashlib  # noqa: PLC0415 - `import hubhooks` can do without

        digest = hashlib.sha256()
        # Interactive code has no file to compare, so each process has a version of its own.
        is_known = self.file is not None
        folder = Path(self.file or ".").parent
        for path in _loaded_files(folder) if is_known else ():
            digest.update(f"\0{path.relative_to(folder).as_posix()}\0".encode())
            with suppress(OSError):  # the module was deleted or replaced since
                digest.update(path.read_bytes())
                # If the file changed since, the process runs older code.
                is_known = is_known and path.stat().st_mtime <= self.loaded_at
        if not is_known:
            digest.update(f"{os.getpid()} {self.loaded_at}".encode())
        return digest.hexdigest()[:_VERSION_LENGTH]


class AppIdentity(NamedTuple):
    """The app that a store belongs to."""

    code: AppCode
    given_name: str | None = None
    """Its name, if the user gave one."""
    may_adopt: bool = False
    """Whether it may take over the store of another app."""

    def name_for(self, store: str) -> str:
        """Return the name that a store keeps."""
        return self.given_name or self.code.name_beside(store)

    def is_moved(self, store: str, known: str) -> bool:
        """Return whether the store's app is this one, and its file was moved.

        Args:
            store: the path of the store.
            known: the name that the store keeps.
        """
        file = self.code.file
        if self.given_name or file is None or Path(known).name != Path(file).name:
            return False
        try:
            # A copy of the project elsewhere is the same app; two projects with one name are not.
            return (Path(store).parent / known).read_bytes() == Path(file).read_bytes()
        except FileNotFoundError:
            return True
        except OSError:
            return False


def find_app_code(creator: object) -> AppCode:
    """Find the file that creates an object: to be called in its `__init__`.

    A function that makes it for several apps belongs to the module whose body calls it.

    Args:
        creator: the object. The frames of its `__init__`, also of subclasses, are skipped.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - `inspect` is slow to import
    while frame is not None and _is_init_of(frame, creator):
        frame = frame.f_back
    file = _file_of(frame)
    while frame is not None and _is_of_user(frame):
        if frame.f_code.co_name == "<module>":
            file = _file_of(frame)
            break
        frame = frame.f_back
    return AppCode(file, time.time(), _clock_of_machine())


def _file_of(frame: FrameType | None) -> str | None:
    # A reloaded script is executed from a string, and its globals still name the file.
    file = None if frame is None else frame.f_globals.get("__file__")
    if not isinstance(file, str):
        return None
    # If only the compiled file is deployed, the name of the source counts.
    return os.path.realpath(file[:-1] if file.endswith(".pyc") else file)


def _is_of_user(frame: FrameType) -> bool:
    """Return whether code is neither installed nor Python's own."""
    file = frame.f_globals.get("__file__")
    if file is None:
        return frame.f_globals.get("__name__") == "__main__"  # a notebook, or a shell
    parts = Path(str(file)).parts
    return not (_INSTALLED.intersection(parts) or _LIBRARY in Path(str(file)).parents)


def _clock_of_machine() -> float:
    """Read a clock that all processes of the machine share. If possible, nobody can set it."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time()


def _is_init_of(frame: FrameType, creator: object) -> bool:
    code = frame.f_code
    return (
        code.co_name == "__init__"
        and code.co_argcount > 0
        and frame.f_locals.get(code.co_varnames[0]) is creator
    )


def _loaded_files(folder: Path) -> list[Path]:
    """List the source files of the loaded modules below a folder, without installed ones."""
    found: set[Path] = set()
    for module in tuple(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not _INSTALLED.intersection(Path(file).parts):
            path = Path(os.path.realpath(file))
            if path.is_relative_to(folder):
                found.add(path)
    return sorted(found)[:_MAX_FILES]
