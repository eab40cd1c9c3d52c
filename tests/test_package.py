from __future__ import annotations

import importlib.metadata
import inspect
import pickle
from pathlib import Path

import pytest

import hubhooks
from hubhooks import errors

ROOT = Path(__file__).parent.parent


def test_exported_names_are_sorted_and_exist():
    assert hubhooks.__all__ == sorted(hubhooks.__all__)
    assert all(hasattr(hubhooks, name) for name in hubhooks.__all__)


def test_public_class_has_docstring_and_public_name():
    for name in hubhooks.__all__:
        member = getattr(hubhooks, name)
        if inspect.isclass(member):
            assert member.__doc__, name
            for attribute, value in vars(member).items():
                is_field = inspect.ismemberdescriptor(value)
                assert is_field or attribute.startswith("_") or inspect.getdoc(value), attribute
            assert member.__module__.split(".")[0] == "hubhooks"


def test_version_equals_that_of_the_crate():
    assert f'\nversion = "{hubhooks.__version__}"\n' in (ROOT / "Cargo.toml").read_text()
    assert importlib.metadata.version("hubhooks") == hubhooks.__version__
    assert f"## [{hubhooks.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_pickling(name):
    error = getattr(errors, name)("what was wrong")
    if isinstance(error, errors.PayloadError):
        error = errors.PayloadError("what was wrong", 3, 7, "event.action")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == "what was wrong"
    assert vars(copy) == vars(error)
    assert copy.status == error.status


def test_errors_have_their_http_status():
    assert {name: getattr(errors, name).status for name in errors.__all__} == {
        "BodyTooLargeError": 413,
        "BusyError": 503,
        "ConfigError": 500,
        "HubHooksError": 500,
        "PayloadError": 400,
        "SecretMismatchError": 403,
        "SecretMissingError": 401,
        "StoreError": 503,
    }
