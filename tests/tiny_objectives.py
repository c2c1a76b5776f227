"""A small objective for tests of the engine; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from versatile_diffusion.training.engine.config import LoopSettings
from versatile_diffusion.training.engine.contract import Objective

SHORT = LoopSettings(steps=12, warmup=3, log_every=2, eval_minutes=None, sample_minutes=None)


class Regression(Objective[nn.Module]):
    """A network with dropout and running statistics; `events` happen when the batch of their step is drawn."""

    name, batch_size, device = "regression", 8, torch.device("cpu")

    def __init__(self, events: dict[int, Any] | None = None, width: int = 6):
        self.events, self.width = events or {}, width

    def settings(self) -> dict[str, Any]:
        return {"width": self.width}

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(3, self.width), nn.BatchNorm1d(self.width), nn.Dropout(0.3), nn.Linear(self.width, 1)
        )

    def optimizers(self, module: nn.Module) -> list[torch.optim.Optimizer]:
        matrices = [p for p in module.parameters() if p.ndim > 1]
        others = [p for p in module.parameters() if p.ndim < 2]
        return [torch.optim.AdamW(matrices, lr=0.01, weight_decay=0.1), torch.optim.SGD(others, lr=0.02, momentum=0.9)]

    def batch(self, step: int, generator: torch.Generator) -> Tensor:
        values = torch.randn(self.batch_size, 3, generator=generator)
        happens = self.events.get(step)
        return values if happens is None else happens(values)

    def loss(self, module: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        error = module(batch)[:, 0] - batch.sum(dim=1)
        return (error**2).mean(), {"size": error.abs().max()}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        assert not module.training
        return {"at_one": float(module(torch.ones(1, 3)) + 0 * torch.rand(1))}

    def export(self, module: nn.Module, folder: Path) -> None:
        folder.mkdir()
        torch.save(module.state_dict(), folder / "model.pt")


class Flows(Regression):
    """Two flows a step in an order: each has a block of its own, and they share one. No chance inside the module, so
    that it does not matter which process takes which batch; and it is built as FSDP shards it."""

    name = "flows"

    def build(self) -> nn.Module:
        made = {
            name: nn.Sequential(nn.Linear(self.width, 5), nn.SiLU(), nn.Linear(5, 1)) for name in ("a", "b", "idle")
        }
        return nn.ModuleDict({"shared": nn.Linear(3, self.width), **made})

    def blocks(self, module: nn.Module) -> list[nn.Module]:
        assert isinstance(module, nn.ModuleDict)
        return [module["a"], module["b"], module["idle"]]

    def pieces(self, batch: Tensor) -> list[tuple[str, Tensor]]:
        return [("a", batch[:5]), ("b", batch[5:])]

    def loss(self, module: nn.Module, batch: tuple[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        name, values = batch
        assert isinstance(module, nn.ModuleDict)
        loss = ((module[name](module["shared"](values))[:, 0] - values.sum(dim=1)) ** 2).mean()
        return loss, {name: loss}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        return {name: float(self.loss(module, (name, torch.ones(1, 3)))[0]) for name in ("a", "b")}
