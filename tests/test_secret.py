from __future__ import annotations

import itertools
import socket
import warnings

import httpx
import pytest
from fastapi import FastAPI
from servers import PATIENCE
from starlette.datastructures import Headers
from tables import cases

from hubhooks import Verifier, Webhooks
from hubhooks._samples import compact, sample_json
from hubhooks.admin.access import AdminTokenGuard
from hubhooks.errors import ConfigError, SecretMismatchError, SecretMissingError
from hubhooks.fastapi import VerifiedEvent  # noqa: TC001 - FastAPI evaluates annotations

OUTCOMES = {"missing": SecretMissingError, "mismatch": SecretMismatchError}


def check(call, outcome):
    if outcome == "ok":
        assert call() is None
    else:
        with pytest.raises(OUTCOMES[outcome]):
            call()


@cases("secrets", "value")
def test_value_is_checked(row):
    verifier = Verifier(*row["secrets"])
    check(lambda: verifier.verify(row["value"]), row["outcome"])
    if row["value"] is not None:
        check(lambda: verifier.verify(row["value"].encode()), row["outcome"])


@cases("secrets", "headers")
def test_request_is_checked(row):
    verifier = Verifier(*row["secrets"])
    pairs = [(name.encode(), value.encode()) for name, value in row["headers"]]
    query = row.get("query")
    check(lambda: verifier.verify_request(pairs, query), row["outcome"])
    raw_query = None if query is None else query.encode()
    check(lambda: verifier.verify_request(iter(pairs), raw_query), row["outcome"])
    # ASGI defines a header as an iterable of two items.
    check(lambda: verifier.verify_request([list(pair) for pair in pairs], query), row["outcome"])
    check(lambda: verifier.verify_request(Headers(raw=pairs), query), row["outcome"])
    names = [name.lower() for name, _ in pairs]
    if len(set(names)) == len(names):
        check(lambda: verifier.verify_request(dict(pairs), query), row["outcome"])
        check(lambda: verifier.verify_request(dict(row["headers"]), query), row["outcome"])


@cases("secrets", "headers")
def test_request_is_checked_without_raising(row):
    pairs = [(name.encode(), value.encode()) for name, value in row["headers"]]
    found = Verifier(*row["secrets"]).check(pairs, row.get("query"))
    assert (found or "ok") == row["outcome"]


@cases("secrets", "error")
def test_unusable_secret_is_rejected(row):
    with pytest.raises(ConfigError) as caught:
        Verifier(*row["secrets"])
    assert str(caught.value) == row["error"]


def test_repr_hides_the_secret():
    verifier = Verifier("old-tide", "new-tide")
    shown = [repr(verifier), str(verifier), repr(vars(Verifier))]
    for value in (b"old-tid", None):
        with pytest.raises((SecretMismatchError, SecretMissingError)) as caught:
            verifier.verify(value)
        shown.append(repr(caught.value))
    with pytest.raises(ConfigError) as caught:
        Verifier("tide-é")
    shown.append(repr(caught.value))
    assert not any("tide" in text for text in shown)
    assert repr(verifier) == "Verifier(2 secrets, redacted)"
    assert not hasattr(verifier, "__dict__")


@pytest.mark.parametrize("value", [7, ["tide"]])
def test_value_of_wrong_type_is_hidden_in_the_error(value):
    with pytest.raises(TypeError, match=r"expected str or bytes, found (int|list)$"):
        Verifier("tide").verify(value)


@pytest.mark.parametrize("make", [Verifier, Webhooks])
def test_secret_of_wrong_type_is_hidden_in_the_error(make):
    with pytest.raises(TypeError, match=r"expected str, found bytes$"):
        make(b"tide")


@pytest.mark.parametrize("headers", [[b"x"], ["ab"], [7], [(b"a", b"b", b"c")], [[b"a"]]])
def test_headers_of_other_items_are_a_type_error(headers):
    with pytest.raises(TypeError, match="expected a pair of a header's name and its value, found"):
        Verifier("tide").verify_request(headers)


def test_headers_of_another_type_are_a_type_error():
    with pytest.raises(TypeError, match="expected headers as a mapping or as pairs, found int"):
        Verifier("tide").verify_request(7)


def test_malformed_header_is_not_read_to_its_end():
    with pytest.raises(TypeError, match="expected a pair"):
        Verifier("tide").verify_request([itertools.repeat(b"x")])


def test_lone_surrogates_are_rejected():
    with pytest.raises(ConfigError, match="lone surrogates"):
        Verifier("\ud800")
    with pytest.raises(SecretMismatchError):
        Verifier("tide").verify("\ud800")


@pytest.mark.parametrize(
    "secret", ["ti\nde", "tide\0", "\x1btide", "tide\x7f", "ti\tde", "\ufefftide"]
)
def test_app_with_unsendable_secret_does_not_start(secret, monkeypatch):
    with pytest.raises(ConfigError, match=r"^webhook secret 1 has a") as caught:
        Webhooks(secret)
    assert "tide" not in str(caught.value)
    if "\0" not in secret:
        monkeypatch.setenv("WEBHOOK_SECRET", secret)
        with pytest.raises(ConfigError, match=r"^webhook secret 1 has a"):
            Webhooks().verifier  # noqa: B018 - it is read here


@pytest.mark.parametrize("token", ["0123456789\nabcdef", "0123456789\x1babcdef", "0" * 1025])
def test_unsendable_admin_token_is_rejected(token, monkeypatch):
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", token)
    with pytest.raises(
        ConfigError, match=r"^HUBHOOKS_ADMIN_TOKEN must be 16 to 1024 printable"
    ) as e:
        AdminTokenGuard(lambda: None).is_on  # noqa: B018 - it is read here
    assert token not in str(e.value)


@pytest.mark.parametrize("secret", ['"tide"', "'tide'", ' "tide"\n'])
def test_secret_in_quotation_marks_is_accepted_with_a_warning(secret, monkeypatch):
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    for make in (lambda: Verifier("ebb", secret), lambda: Webhooks(secret).verifier):
        with pytest.warns(
            UserWarning, match="begins and ends with the same quotation mark"
        ) as caught:
            verifier = make()
        assert verifier.check([(b"x-webhook-secret", secret.strip().encode())]) is None
        assert "tide" not in f"{caught[0].message} {caught[0].filename} {caught[0].line}"
    with pytest.warns(UserWarning, match="quotation mark"):
        Webhooks().verifier  # noqa: B018 - it is read here


def test_warning_of_quotation_marks_is_shown_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            Verifier("'once'")
    assert len(caught) == 1


def test_warning_of_quotation_marks_fails_no_request(serve, monkeypatch, logged):
    monkeypatch.setenv("WEBHOOK_SECRET", "'tide'")
    app = FastAPI()

    @app.post("/own")
    async def own(event: VerifiedEvent):
        return event

    hooks = Webhooks()
    app.mount("/hub", hooks)
    with serve(app) as port, warnings.catch_warnings():
        warnings.simplefilter("error")
        for path, status in (("/own", 200), ("/own", 200), ("/hub/", 200)):
            response = httpx.post(
                f"http://127.0.0.1:{port}{path}",
                content=compact(sample_json("repo.create")),
                headers={"X-Webhook-Secret": "'tide'", "Webhook-Id": "d1"},
            )
            assert response.status_code == status
    warned = [line for line in logged() if "begins and ends with the same quotation mark" in line]
    assert len(warned) == 2  # one for each of the two verifiers
    assert "tide" not in "".join(warned)


@pytest.mark.parametrize("path", ["/own", "/hub/"])
def test_log_explains_a_wrong_secret(path, serve, monkeypatch, logged):
    monkeypatch.setenv("WEBHOOK_SECRET", "ti\nde")
    app = FastAPI()

    @app.post("/own")
    async def own(event: VerifiedEvent):
        return event

    app.mount("/hub", Webhooks())
    with serve(app) as port:
        response = httpx.post(f"http://127.0.0.1:{port}{path}", content=b"{}")
    assert response.status_code == 503
    assert "line feed" not in response.text
    rejections = [line for line in logged() if "503" in line]
    assert len(rejections) == 1
    assert "has a line feed at character 3" in rejections[0]


@pytest.mark.parametrize("secret", ["'", '"tide', "'tide\"", "ti'd'e"])
def test_secret_with_other_quotation_marks_is_accepted(secret):
    Verifier(secret).verify(secret)


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_server_ignores_blanks_around_secret(http, serve):
    with serve(Webhooks("tide"), http=http) as port:
        for value in (b"tide", b"tide ", b" \ttide \t ", b"tide\t"):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
                connection.sendall(
                    b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n"
                    b"X-Webhook-Secret:" + value + b"\r\n\r\n{"
                )
                with connection.makefile("rb") as response:
                    assert response.readline() == b"HTTP/1.1 202 Accepted\r\n"
