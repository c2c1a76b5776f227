"""What keeps the page to itself: no value from outside makes the server fetch an address or open a path."""

from __future__ import annotations

from typing import Any

import gradio as gr

ADDRESSES = ("http://", "https://", "//")


def fetched_addresses(value: Any) -> bool:
    """Whether a payload names a file by an address: gradio would download it."""
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and path.strip().lower().startswith(ADDRESSES):
            return True
        return any(fetched_addresses(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(fetched_addresses(inner) for inner in value)
    return False


class Guarded(gr.Blocks):
    """Blocks that refuse files by address; that paths lie in the folder of uploads, gradio itself makes sure."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> Any:
        if fetched_addresses(inputs):
            raise gr.Error("Only uploaded files are read, no addresses.", print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *arguments, **options)
