"""Giving a network the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def assign(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Makes the tensors of `state` the weights of `module`, without a copy.

    Raises:
        ValueError: a weight is missing, unknown or of another shape.
    """
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the configuration: {error}") from error
