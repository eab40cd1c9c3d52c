"""The values that the Hub documents, as types for editors. The core has the same values.

Source: https://huggingface.co/docs/hub/webhooks
"""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Action", "RepoType", "Status"]

Action: TypeAlias = Literal["create", "delete", "update", "move"]
RepoType: TypeAlias = Literal["model", "dataset", "space", "bucket", "kernel"]
Status: TypeAlias = Literal["open", "closed", "merged", "draft"]
