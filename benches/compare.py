"""Send the same requests and faults to hubhooks and its peers, and write `docs/peers.md`.

Run `python benches/compare.py` with a release build of the core. It writes
`docs/images/peers.svg` too. `benches/peers` has the peers: the same bot four times. Each bot is a
server process of its own, on the loopback interface.
"""

from __future__ import annotations

import itertools
import os
import platform
import tempfile
import threading
import time
from contextlib import ExitStack
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl

mpl.use("svg")
from faults import CASES, PEERS, Bot, Case, Outcome, comment, hostile_body, running, try_case
from load_generator import SAMPLE, Target, saturate
from matplotlib import pyplot as plt

from hubhooks._samples import sample_json

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "peers.md"
PLOT = ROOT / "docs" / "images" / "peers.svg"
COLOURS = {"hubhooks": "#2f9e5f", "hubhooks in Gradio": "#7cc79b", "WebhooksServer": "#e2730f",
           "by hand": "#8b8d98"}  # fmt: skip
ROUNDS = 5
CALM_SECONDS = 6.0


class Measured(NamedTuple):
    """Figures by row of a table, and then by peer."""

    stalls: dict[str, dict[str, float]]
    per_second: dict[str, dict[str, float]]
    megabytes: dict[str, dict[str, float]]


# ---- stalls ------------------------------------------------------------------------------------


def longest_response(bot: Bot, disturb: Callable[[], object] | None) -> float:
    """Send a delivery every 20 ms during a disturbance, and return the longest response time."""
    thread = threading.Thread(target=disturb) if disturb else None
    took: list[float] = []
    end = time.monotonic() + CALM_SECONDS
    if thread:
        thread.start()
    while time.monotonic() < end:
        began = time.monotonic()
        bot.deliver(comment(bot.new_repo(), "Nobody is asked."))
        took.append(time.monotonic() - began)
        time.sleep(0.02)
    if thread:
        thread.join()
    return max(took)


def disturbances(bot: Bot) -> dict[str, Callable[[], object] | None]:
    return {
        "nothing else happens": None,
        "a handler sleeps for 3 s": lambda: bot.push(bot.new_repo("-slow")),
        "a client without the secret sends 1.4 MB of errors": lambda: bot.deliver(
            hostile_body(), secret="sun"
        ),
    }


def stalls(folder: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, peer in PEERS.items():
        with running(peer, folder / f"stalls-{name}") as bot:
            bot.deliver(comment(bot.new_repo(), "Warm up."))
            for what, disturb in disturbances(bot).items():
                found.setdefault(what, {})[name] = longest_response(bot, disturb)
    return found


# ---- throughput and memory ---------------------------------------------------------------------

# The secret of each load; None for the right one.
LOADS = {"an event without a handler": None, "a wrong secret": "sun"}


def throughput(folder: Path) -> dict[str, dict[str, float]]:
    """Load all peers in turns."""
    rates: dict[str, dict[str, list[float]]] = {what: {} for what in LOADS}
    with ExitStack() as stack:
        bots = {
            name: stack.enter_context(running(peer, folder / f"load-{name}"))
            for name, peer in PEERS.items()
        }
        for at, what, (name, bot) in itertools.product(
            range(ROUNDS + 1), LOADS, list(bots.items())
        ):
            secret = LOADS[what] or bot.secret
            # Some bots reject with 403, others with 401.
            response = bot.deliver(sample_json(SAMPLE), secret=secret)
            assert response.is_success == (secret == bot.secret)
            server = bot.server
            target = Target(server.pid, server.port, bot.peer.path, secret, response.status)
            done = saturate(target, 1)
            # The first round warms up.
            if at:
                rates[what].setdefault(name, []).append(done.per_second)
    return {what: {name: median(each) for name, each in by.items()} for what, by in rates.items()}


def memory(folder: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, peer in PEERS.items():
        with running(peer, folder / f"memory-{name}") as bot:
            bot.deliver(comment(bot.new_repo(), "Warm up."))
            found.setdefault("at rest", {})[name] = bot.megabytes("VmRSS")
            bot.send_without_secret(100)
            found.setdefault("at most, after 100 MB without the secret", {})[name] = bot.megabytes(
                "VmHWM"
            )
    return found


# ---- the page ----------------------------------------------------------------------------------


def plot(measured: Measured) -> None:
    """Draw the figures in colours that are readable on white and on black."""
    plt.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "hubhooks", "font.family": "sans-serif",
        "text.color": "#888", "axes.labelcolor": "#888", "xtick.color": "#888",
        "ytick.color": "#888", "axes.edgecolor": "#888", "font.size": 9,
    })  # fmt: skip
    stalls_in_ms = {
        what: {name: seconds * 1e3 for name, seconds in by.items()}
        for what, by in measured.stalls.items()
    }
    panels = [
        ("longest response, ms (logarithmic)", stalls_in_ms),
        ("responses per second", measured.per_second),
        ("memory, MB", measured.megabytes),
    ]
    figure, all_axes = plt.subplots(
        len(panels), 1, figsize=(8, 9), height_ratios=[len(bars) for _, bars in panels]
    )
    for axes, (label, bars) in zip(all_axes, panels, strict=True):
        height = 0.8 / len(PEERS)
        for at, name in enumerate(PEERS):
            places = [row + at * height for row in range(len(bars))]
            values = [by[name] for by in bars.values()]
            drawn = axes.barh(places, values, height * 0.9, color=COLOURS[name], label=name)
            axes.bar_label(drawn, [f"{value:,.0f}" for value in values], padding=3, fontsize=7)
        axes.set_yticks([row + 0.4 - height / 2 for row in range(len(bars))], list(bars))
        axes.invert_yaxis()
        if bars is stalls_in_ms:
            axes.set_xscale("log")
            axes.set_xlim(1)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *all_axes[0].get_legend_handles_labels(), loc="upper center", ncols=4, frameon=False
    )
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(PLOT, transparent=True, metadata={"Date": None, "Creator": None})


HEAD = """# Comparison

{result}

{summary}
The same bot is written four times, and gets the same requests and faults:

* with hubhooks;
* with hubhooks in a Gradio app;
* with `WebhooksServer` of huggingface_hub, which needs a Gradio app;
* by hand with FastAPI, in the style of the Hub's guides.

Made on {date} on {cores} cores, with {versions}.
Make it again:

```sh
make compare
```

The bots: [ours.py](../benches/peers/ours.py), [incumbent.py](../benches/peers/incumbent.py),
[by_hand.py](../benches/peers/by_hand.py). The requests: [faults.py](../benches/faults.py).
hubhooks stores deliveries on disk, its default. The others store none.

## Checks
"""

MEASURED = """
## Response times, throughput and memory

![Bars for each bot: its longest response, its responses per second, its memory](images/peers.svg)

* **Longest response**: of a comment without a handler, sent every 20 ms for {calm:g} s.
* **1.4 MB of errors**: a list of 475,000 refs without a name, sent with a wrong secret.
* **Responses per second**: over 16 connections, the median of {rounds} rounds of one second.

Times and rates vary by some tenths between runs. The large differences stay.

{tables}
"""

TAIL = """
## Where others are better

* **The result of a handler.** `WebhooksServer` and a FastAPI endpoint return it to the sender.
  hubhooks responds before the handler starts. The Hub reads only the status.
* **Installation.** FastAPI by hand needs nothing else, and `WebhooksServer` is part of
  `huggingface_hub`. hubhooks is one more package, with a compiled core.
* **A file.** hubhooks writes to the disk, and rejects deliveries if the disk is full.
  `deliveries=":memory:"` needs no file.
* **A page.** `WebhooksServer` makes a Gradio page with its URLs if you have none.
* **Age.** `WebhooksServer` exists since 2023, and is marked as experimental. hubhooks is new.

[Migrating from `WebhooksServer`](migrating.md) shows the change step by step.
"""


def page(results: dict[str, list[tuple[Case, Outcome]]], measured: Measured) -> str:
    names = ("hubhooks", "huggingface_hub", "gradio", "fastapi", "uvicorn")
    versions = ", ".join(
        [f"Python {platform.python_version()}", *(f"{n} {version(n)}" for n in names)]
    )
    passed = {
        name: float(sum(outcome.is_fine for _, outcome in outcomes))
        for name, outcomes in results.items()
    }
    ours, theirs = passed["hubhooks"], passed["WebhooksServer"]
    text = HEAD.format(
        date=date.today().isoformat(),  # noqa: DTZ011 - the date where the page is made
        versions=versions,
        cores=len(os.sched_getaffinity(0)),
        result=f"hubhooks passes {ours:g} of {len(CASES)} checks. `WebhooksServer` of "
        f"huggingface_hub passes {theirs:g}, and a bot by hand passes {passed['by hand']:g}.",
        summary=summary(passed, measured),
    )
    for group, cases in itertools.groupby(CASES, lambda case: case.group):
        text += f"\n| {group} | " + " | ".join(PEERS) + " |\n|---|" + "---|" * len(PEERS) + "\n"
        for case in cases:
            cells = [cell(results[name][CASES.index(case)][1]) for name in PEERS]
            text += f"| {case.title} | " + " | ".join(cells) + " |\n"
    figures = [
        table("longest response", measured.stalls, milliseconds),
        table("responses per second", measured.per_second, plain),
        table("memory", measured.megabytes, megabytes),
    ]
    text += MEASURED.format(calm=CALM_SECONDS, rounds=ROUNDS, tables="\n".join(figures).rstrip())
    return text + TAIL


def summary(passed: dict[str, float], measured: Measured) -> str:
    """Make the small table at the top: one row per question."""
    busy = "a handler sleeps for 3 s"
    peak = measured.megabytes["at most, after 100 MB without the secret"]
    rows = {
        f"checks passed, of {len(CASES)}": (passed, lambda value: f"{value:g}"),
        f"longest response while {busy}": (measured.stalls[busy], milliseconds),
        "responses per second, to a wrong secret": (measured.per_second["a wrong secret"], plain),
        "peak memory, with 100 MB sent without the secret": (peak, megabytes),
    }
    text = table_head("")
    for title, (by, show) in rows.items():
        text += row(title, by, show)
    return text


def cell(outcome: Outcome) -> str:
    mark = "yes" if outcome.is_fine else "**no**"
    return f"{mark}: {outcome.what}" if outcome.what else mark


def table(what: str, rows: dict[str, dict[str, float]], show: Callable[[float], str]) -> str:
    return table_head(what) + "".join(row(title, by, show) for title, by in rows.items())


def table_head(what: str) -> str:
    return f"| {what} | " + " | ".join(PEERS) + " |\n|---|" + "---:|" * len(PEERS) + "\n"


def row(title: str, by: dict[str, float], show: Callable[[float], str]) -> str:
    return f"| {title} | " + " | ".join(show(by[name]) for name in PEERS) + " |\n"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms"


def megabytes(value: float) -> str:
    return f"{value:,.0f} MB"


def plain(value: float) -> str:
    return f"{value:,.0f}"


def main() -> None:
    """Try all bots, and write the page."""
    results: dict[str, list[tuple[Case, Outcome]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for peer_name, peer in PEERS.items():
            with running(peer, folder / peer_name) as bot:
                results[peer_name] = []
                for case in CASES:
                    outcome = try_case(case, bot)
                    results[peer_name].append((case, outcome))
                    print(f"{peer_name:20} {case.title:66} {cell(outcome)}", flush=True)
        measured = Measured(stalls(folder), throughput(folder), memory(folder))
    plot(measured)
    PAGE.write_text(page(results, measured), encoding="utf-8")
    print(f"\n{PAGE.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
