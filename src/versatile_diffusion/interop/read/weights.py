"""Assignment of checkpoint weights to a network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def assign(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Use the tensors of `state` as weights of `module`, without copying.

    Raises:
        ValueError: missing or unknown weights, or wrong shapes.
    """
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the configuration: {error}") from error
