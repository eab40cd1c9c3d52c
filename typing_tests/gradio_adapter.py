"""What type checkers know of the Gradio adapter. Checked by mypy and pyright, never run.

Each ignored line must be wrong: both checkers report an ignore that nothing needs.
"""

from typing import Any

from gradio.blocks import Blocks
from gradio.interface import Interface
from gradio.routes import App
from typing_extensions import assert_type

from hubhooks import Webhooks
from hubhooks.gradio import launch, make_app_kwargs, webhook_url

hooks = Webhooks("moon")


def launches(demo: Blocks, interface: Interface) -> None:
    assert_type(launch(hooks, demo, share=True), tuple[App, str, str])
    assert_type(webhook_url(interface), str)
    hooks.launch(interface, auth=("ada", "tide"))
    demo.launch(app_kwargs=hooks.app_kwargs(routes=[]))
    assert_type(hooks.app_kwargs(), dict[str, Any])
    assert_type(make_app_kwargs(hooks), dict[str, Any])
    hooks.launch(demo.launch)  # type: ignore[arg-type]
    hooks.app_kwargs([])  # type: ignore[call-arg]
