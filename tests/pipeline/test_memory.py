"""What a pipeline can do to need less time."""

from __future__ import annotations

from typing import Any

import torch
from tiny import build_tiny_pipeline


def test_compiled_blocks_give_the_same_result_and_replay_it() -> None:
    pipe = build_tiny_pipeline()
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 1, "output_type": "latent"}
    plain = pipe.text_to_image("a cat", **options)
    blocks = [m for m in pipe.unet.modules() if type(m).__name__ in pipe.unet._repeated_blocks]
    try:
        pipe.compile_repeated_blocks(backend="eager")
        assert all(block._compiled_call_impl is not None for block in blocks)
        compiled = pipe.text_to_image("a cat", **options)
        torch.testing.assert_close(compiled.latents, plain.latents, rtol=1e-5, atol=1e-5)
        assert torch.equal(pipe.replay(compiled.settings).latents, compiled.latents)
    finally:
        torch.compiler.reset()
