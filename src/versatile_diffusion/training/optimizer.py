"""Muon, and which parameter goes to which optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)  # pushes every singular value in (0, 1] to about 0.7 .. 1.2


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix to `matrix` (m, n), roughly: all singular values end in about 0.7 .. 1.2.

    Newton-Schulz iteration with a quintic polynomial; only matrix products, on the smaller of the two sides.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024): for weights that act as matrices.

    Convolution filters are flattened to (out, in * kernel). The update is scaled by sqrt(max(1, rows / columns)).

    Args:
        params: parameters of two dimensions or more.
        lr: step length, about the norm of the change per singular direction.
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

    def _update(self, p: Tensor, grad: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        state["momentum"].lerp_(grad, 1 - group["momentum"])
        direction = grad.lerp(state["momentum"], group["momentum"]).flatten(1)
        rows, columns = direction.shape
        update = orthogonalise(direction, group["newton_schulz_steps"]).view_as(p)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


@dataclass
class ParameterGroups:
    """Parameters by optimizer: Muon, AdamW with weight decay, AdamW without."""

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
    ) -> list[torch.optim.Optimizer]:
        """AdamW, and Muon where there is something for it."""
        adamw = torch.optim.AdamW(
            [{"params": self.decay, "weight_decay": weight_decay}, {"params": self.no_decay, "weight_decay": 0.0}],
            lr=lr,
            betas=betas,
        )
        if not self.muon:
            return [adamw]
        return [adamw, Muon(self.muon, muon_lr, weight_decay=muon_weight_decay, newton_schulz_steps=muon_steps)]


def split_parameters(
    module: nn.Module, muon: bool = True, not_muon: tuple[str, ...] = (), no_decay: tuple[str, ...] = ()
) -> ParameterGroups:
    """Sorts the trainable parameters of `module`.

    Weights of `nn.Linear` and convolutions go to Muon, or to AdamW with decay where `muon` is False; biases, norms,
    embeddings and other parameters go to AdamW without decay.

    Args:
        muon: whether to use Muon at all.
        not_muon: parts of names of matrices that AdamW takes all the same (first and last layers).
        no_decay: parts of names that must not decay.
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
    """Identities of the weights that multiply features; a table tied to an embedding is not among them."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    return {id(m.weight) for m in module.modules() if isinstance(m, kinds)} - tables
