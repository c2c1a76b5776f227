"""Muon, the assignment of parameters to optimizers, and learning-rate multipliers of groups and streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from versatile_diffusion.diffuser.groups import Multipliers, parameter_groups
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.printable import shown
from versatile_diffusion.training.engine.distributed import scatter

_QUINTIC = (3.4445, -4.7750, 2.0315)  # maps every singular value in (0, 1] to about 0.7 .. 1.2


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Approximate the nearest (semi-)orthogonal matrix to `matrix` (m, n); singular values end at about 0.7 .. 1.2.

    Newton-Schulz iteration with a quintic polynomial: only matrix products, on the smaller side, in the dtype of
    autocast if it is on.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    norm: Tensor = x.norm()
    x = x / (norm + 1e-7)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    a, b, c = _QUINTIC
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    return (x if wide else x.T).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024), for weights that act as matrices.

    Convolution filters are flattened to (out, in * kernel). The update is scaled by sqrt(max(1, rows / columns)).

    Args:
        params: parameters of two dimensions or more.
        lr: learning rate, about the size of the update per singular direction.
        momentum: of the (Nesterov) average of the gradients.
        weight_decay: decoupled, as in AdamW.
        newton_schulz_steps: iterations of `orthogonalise`.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        newton_schulz_steps: int = 5,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "newton_schulz_steps": newton_schulz_steps,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 2:
                    raise ValueError(f"Muon takes parameters of two dimensions or more, got shape {tuple(p.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        state["momentum"].lerp_(grad, 1 - group["momentum"])
        direction = grad.lerp(state["momentum"], group["momentum"])
        if isinstance(direction, DTensor):  # gather once, not for every product
            direction = direction.full_tensor()
        direction = direction.flatten(1)
        rows, columns = direction.shape
        update = scatter(orthogonalise(direction, group["newton_schulz_steps"]).view(p.shape), like=p)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


def _adamw(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW, fused on a GPU."""
    on_gpu = all(p.is_cuda for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=on_gpu or None)


def _adam(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=lr, betas=betas)


def _sgd(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """SGD without momentum."""
    return torch.optim.SGD(groups, lr=lr)


def _adamw_8bit(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(
            "optimizer 'adamw-8bit' needs bitsandbytes, which is not installed: pip install bitsandbytes; "
            "or use 'adamw'"
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, lr=lr, betas=betas)
    return optimizer


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "adamw-8bit": _adamw_8bit,
}
"""Optimizers of the parameters that Muon does not update."""


@dataclass
class ParameterGroups:
    """Parameters by optimizer: Muon, and another one with and without weight decay."""

    muon: list[nn.Parameter] = field(default_factory=list)
    decay: list[nn.Parameter] = field(default_factory=list)
    no_decay: list[nn.Parameter] = field(default_factory=list)

    def optimizers(
        self,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.98),
        muon_lr: float = 0.02,
        muon_weight_decay: float = 0.02,
        muon_steps: int = 5,
        kind: str = "adamw",
    ) -> list[torch.optim.Optimizer]:
        """One of `OPTIMIZERS`, and Muon if it has parameters.

        Raises:
            ValueError: an unknown kind, or a missing package.
        """
        if kind not in OPTIMIZERS:
            raise ValueError(f"optimizer is {shown(kind)}; allowed: {', '.join(OPTIMIZERS)}")
        groups = [{"params": self.decay, "weight_decay": weight_decay}, {"params": self.no_decay, "weight_decay": 0.0}]
        first = OPTIMIZERS[kind](groups, lr=lr, betas=betas)
        if not self.muon:
            return [first]
        return [first, Muon(self.muon, muon_lr, weight_decay=muon_weight_decay, newton_schulz_steps=muon_steps)]


class Rates(Protocol):
    """Learning rates and weight decay of an objective."""

    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def muon_lr(self) -> float | None: ...


def adamw_and_muon(groups: ParameterGroups, rates: Rates, muon_weight_decay: float) -> list[torch.optim.Optimizer]:
    """The optimizers of a codec or an encoder.

    Args:
        groups: its parameters.
        rates: AdamW's `lr` and `weight_decay`, and Muon's `muon_lr`.
        muon_weight_decay: of Muon.
    """
    muon_lr = rates.muon_lr or 0.0
    return groups.optimizers(rates.lr, rates.weight_decay, (0.9, 0.98), muon_lr, muon_weight_decay, muon_steps=4)


def multiply(optimizers: Sequence[torch.optim.Optimizer], unet: MultiFlowUNet, multipliers: Multipliers) -> None:
    """Apply learning-rate multipliers to groups and streams (paper section 3.4) by splitting the optimizers' parameter
    groups.

    Call it before the first step, and after `multipliers.freeze`.

    Args:
        optimizers: over parameters of `unet`.
        unet: the diffuser.
        multipliers: see there; nothing changes if all are 1.
    """
    groups = parameter_groups(unet)
    factors = {id(p): factor for name, factor in multipliers.of(groups).items() for _, p in groups[name]}
    for optimizer in optimizers:
        parts = []
        for group in optimizer.param_groups:
            for factor in dict.fromkeys([factors[id(p)] for p in group["params"]] or [1.0]):
                members = [p for p in group["params"] if factors[id(p)] == factor]
                scaled = {"lr": factor * group["lr"]} if multipliers.mode == "update" else {"gradient_factor": factor}
                parts.append({**group, "params": members, **({} if factor == 1 else scaled)})
        optimizer.param_groups[:] = parts
        optimizer.register_step_pre_hook(_scale_gradients)


@torch.no_grad()
def _scale_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        if gradients and "gradient_factor" in group:
            torch._foreach_mul_(gradients, group["gradient_factor"])


def split_parameters(
    module: nn.Module, muon: bool = True, not_muon: tuple[str, ...] = (), no_decay: tuple[str, ...] = ()
) -> ParameterGroups:
    """Assign the trainable parameters of `module` to optimizers.

    Weights of `nn.Linear` and convolutions go to Muon, or to AdamW with weight decay if `muon` is False; biases, norms,
    embeddings and other parameters go to AdamW without weight decay.

    Args:
        module: whose parameters.
        muon: whether to use Muon at all.
        not_muon: substrings of the names of matrices that AdamW updates all the same (first and last layers).
        no_decay: substrings of the names of parameters without weight decay.
    """
    groups, matrices = ParameterGroups(), _matrices(module)
    for name, p in module.named_parameters():
        if not p.requires_grad:
            continue
        if id(p) not in matrices or any(part in name for part in no_decay):
            groups.no_decay.append(p)
        elif muon and not any(part in name for part in not_muon):
            groups.muon.append(p)
        else:
            groups.decay.append(p)
    return groups


def _matrices(module: nn.Module) -> set[int]:
    """IDs of the weights of linear and convolution layers, except those tied to an embedding."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    return {id(m.weight) for m in module.modules() if isinstance(m, kinds)} - tables
