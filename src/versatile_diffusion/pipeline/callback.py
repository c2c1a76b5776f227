"""What is called after each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.numeric import sequence
from versatile_diffusion.printable import shown

TENSORS = ("latents", "pred_x0")
"""What a callback is given: the latents after the step, and the clean latents that the step expects."""
StepCallback = Callable[[Any, int, int, dict[str, Tensor]], "dict[str, Tensor] | None"]
"""`(pipeline, step, timestep, tensors) -> {"latents": new ones}`, or None."""


def with_inputs(callback: Any, names: Sequence[str] | None) -> StepCallback | None:
    """A callback that is given the tensors named alone.

    Args:
        callback: that of a user; diffusers' callback objects say by `tensor_inputs` what they need.
        names: of `TENSORS`; all if None.

    Raises:
        ValueError: it cannot be called, or a name is unknown.
    """
    listed = sequence(getattr(callback, "tensor_inputs", names))
    if listed is None and names is not None:
        raise ValueError(f"callback_on_step_end_tensor_inputs is {shown(names)}; it must be a list of names")
    wanted = TENSORS if listed is None else listed
    for name in wanted:
        chosen("name in callback_on_step_end_tensor_inputs", name, TENSORS)
    if callback is None:
        return None
    if not callable(callback):
        raise ValueError(f"callback_on_step_end is {shown(callback)}; it must be a function")

    def call(pipe: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        changed: dict[str, Tensor] | None = callback(pipe, step, timestep, {name: tensors[name] for name in wanted})
        return changed

    return call
