"""What type checkers know of headers. Checked by mypy and pyright, never run.

Each ignored line must be wrong: both checkers report an ignore that nothing needs.
"""

from hubhooks import Verifier

verifier = Verifier("moon")
names: dict[str, str] = {"X-Webhook-Secret": "moon"}
tuples: list[tuple[bytes, bytes]] = [(b"x-webhook-secret", b"moon")]
lists: list[list[bytes]] = [[b"x-webhook-secret", b"moon"]]
texts: list[list[str]] = [["x-webhook-secret", "moon"]]

for headers in (names, tuples, lists, texts):
    verifier.verify_request(headers)
    verifier.check(headers)
verifier.verify_request([("X-Webhook-Secret", "moon")], "")
verifier.verify_request(["X-Webhook-Secret: moon"])  # type: ignore[arg-type]
verifier.verify_request([b"X-Webhook-Secret: moon"])  # type: ignore[arg-type]
