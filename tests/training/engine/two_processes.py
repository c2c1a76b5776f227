"""Run by `test_distributed.py` in two processes (or four), joined over gloo: `python two_processes.py ROLE FOLDER`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import distributed_c10d

sys.path.insert(0, str(Path(__file__).parents[2]))
from tiny_objectives import SHORT, Flows, Regression

from versatile_diffusion.training.engine.contract import Objective
from versatile_diffusion.training.engine.distributed import World, joined
from versatile_diffusion.training.engine.loop import train

SETTINGS = replace(SHORT, checkpoint_minutes=0)
RANK = int(os.environ["RANK"])


def _stop(values: Tensor) -> Tensor:
    """One of the processes is told to stop."""
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return values


def _die(values: Tensor) -> Tensor:
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return values


def _hang(message: Path, world: World) -> Callable[[Tensor], Tensor]:
    """One process is silent until the other, whose patience becomes short, has said that it lost it."""

    def happens(values: Tensor) -> Tensor:
        if RANK == 1:
            while not message.exists():
                time.sleep(0.05)
            os._exit(0)
        for group in (None, world.control):
            distributed_c10d._set_pg_timeout(timedelta(seconds=1), group)
        return values

    return happens


def _refused(*arguments: object, error: type[Exception] = ValueError) -> str:
    try:
        train(*arguments)  # type: ignore[arg-type]
    except error as raised:
        return str(raised)
    return ""


class Counting(World):
    """Leaves a file when the first process has given so many signs of life."""

    signs = 0

    def _at_work(self, told: bool = False) -> bool:
        at_work = super()._at_work(told)
        Counting.signs += at_work
        if not self.first and Counting.signs == 3:
            self.file.touch()
        return at_work


def first_at_work(out: Path, world: World) -> None:
    """The others wait for the first process as long as it works, not as long as they wait for an answer."""
    Counting.file = out / "signs"
    counting = Counting(world.rank, world.size, world.control, pulse=0.05)

    def works() -> str:
        while not Counting.file.exists():
            time.sleep(0.01)
        return "done"

    assert counting.on_first(works) == "done"
    assert (counting.first_alone(lambda: RANK) is None) == (RANK > 0)
    assert Counting.signs >= 3


def first(out: Path, world: World) -> None:
    """Whole and broken runs, replicated and sharded; what is refused."""
    first_at_work(out, world)
    for name, parallel, objective in (("ddp", "ddp", Regression), ("flows", "ddp", Flows), ("fsdp", "fsdp", Flows)):
        settings = replace(SHORT, parallel=parallel, posthoc=(0.1,) if name != "ddp" else (), snapshots=4)
        train(objective(), settings, out / f"{name}-whole", world)
        stopped = train(objective({4: _stop}), settings, out / f"{name}-broken", world)
        assert (stopped.step, stopped.finished) == (5, False)
        train(objective(), settings, out / f"{name}-broken", world)
    half = replace(SHORT, parallel="fsdp", bf16=True)
    train(Flows(), half, out / "fsdp-bf16", world)
    assert "different settings" in _refused(Flows(width=5 + RANK), SETTINGS, out / "different", world)
    assert "WORLD_SIZE" in _refused(Flows(), SETTINGS, out / "alone")
    os.environ["WORLD_SIZE"] = "3"
    try:
        with joined(torch.device("cpu")):
            raise AssertionError("a group of another size was taken")
    except ValueError as error:
        assert "is 3" in str(error)  # noqa: PT017
    os.environ["WORLD_SIZE"] = "2"
    broken = Flows({6: lambda values: values * float("nan") if RANK == 1 else values})
    assert "not finite" in _refused(broken, SETTINGS, out / "nan", world, error=FloatingPointError)
    train(Flows({5: _die}), SETTINGS, out / "killed", world)


def second(out: Path, world: World) -> None:
    """Goes on where a process was killed, and trains the real diffuser; then one does not answer."""
    train(Flows(), SETTINGS, out / "killed", world)
    network(out, world)
    place = out / "hung"
    place.mkdir(exist_ok=True)
    message = _refused(Flows({4: _hang(place / "message", world)}), SETTINGS, place, world, error=ConnectionError)
    (place / "new").write_text(message)
    (place / "new").rename(place / "message")
    os._exit(0)


def network(out: Path, world: World) -> None:
    """The real diffuser, its memory format, mixed flows and Muon included."""
    from versatile_diffusion.diffuser.context import Context
    from versatile_diffusion.diffuser.unet import MultiFlowUNet
    from versatile_diffusion.training.engine.optimizer import split_parameters

    class Diffuser(Flows):
        name = "diffuser"

        def build(self) -> MultiFlowUNet:
            streams = {"image": {"channels": 4}, "text": {"width": 32, "positions": 4}}
            contexts = {name: {"width": 24} for name in streams}
            small = {"width": 16, "multipliers": (1, 2), "depth": 1, "attends": (False, False), "heads": 2}
            unet = MultiFlowUNet(streams, contexts, norm_groups=4, **small)
            return unet.to(memory_format=torch.channels_last)

        def blocks(self, module: MultiFlowUNet) -> list[torch.nn.Module]:
            return [block for group in (module.data, module.context) for stream in group.values() for block in stream]

        def batch(self, step: int, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
            shapes = {"image": (2, 4, 8, 8), "text": (2, 32)}
            draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
            return {name: (draw(*shape), draw(2, 3, 24)) for name, shape in shapes.items()}

        def pieces(self, batch: dict[str, tuple[Tensor, Tensor]]) -> list[tuple[str, tuple[Tensor, Tensor]]]:
            return list(batch.items())

        def loss(self, module: MultiFlowUNet, batch: tuple[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, dict]:
            name, (latent, tokens) = batch
            loss = (module(latent, 5, [Context(name, tokens)], data=name).float() - latent).square().mean()
            return loss, {name: loss}

        def optimizers(self, module: torch.nn.Module) -> list[torch.optim.Optimizer]:
            return split_parameters(module).optimizers(lr=1e-3, weight_decay=0.01, muon_lr=0.01)

        evaluate = Objective.evaluate  # type: ignore[assignment]

    settings = replace(SHORT, steps=2, log_every=1, warmup=0, activation_checkpointing=True)
    train(Diffuser(), replace(settings, activation_checkpointing=False), out / "unet-ddp", world)
    train(Diffuser(), replace(settings, parallel="fsdp"), out / "unet-fsdp", world)
    train(Diffuser(), replace(settings, parallel="fsdp", bf16=True), out / "unet-bf16", world)


def nodes(out: Path, world: World) -> None:
    """Four processes as if on two nodes: shards within each, and replicas of these."""
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    for name, parallel in (("ddp", "ddp"), ("hsdp", "hsdp")):
        train(Flows(), replace(SHORT, parallel=parallel), out / f"{name}-whole", world)
    hsdp = replace(SHORT, parallel="hsdp")
    assert not train(Flows({4: _stop}), hsdp, out / "hsdp-broken", world).finished
    train(Flows(), hsdp, out / "hsdp-broken", world)
    os.environ["LOCAL_WORLD_SIZE"] = "1" if RANK == 0 else "3"
    assert "the same number of processes on each node" in _refused(Flows(), hsdp, out / "uneven", world)


def sharded(out: Path, world: World) -> None:
    """Checkpoints of which each process writes its part, to a folder and by a URL; stopped, gone on with, damaged."""
    for name, parallel, place in (("ddp", "ddp", ""), ("fsdp", "fsdp", "file://")):
        settings = replace(SHORT, parallel=parallel, posthoc=(0.1,), checkpoint_minutes=1e-6, keep=2)
        train(Flows(), replace(settings, checkpoints=f"{place}{out}/{name}-c"), out / f"{name}-whole", world)
        broken = replace(settings, checkpoints=f"{place}{out}/{name}-d")
        assert not train(Flows({4: _stop}), broken, out / f"{name}-broken", world).finished
        if world.first:
            shutil.copytree(out / f"{name}-d", out / f"{name}-e")
            (file,) = (out / f"{name}-d" / "0000005").glob("__1_*.distcp") if parallel == "fsdp" else [None]
            if file is not None:
                file.write_bytes(file.read_bytes()[:100])
        world.gather(None)
        train(Flows(), broken, out / f"{name}-broken", world)
        assert "use the settings of the run" in _refused(Flows(width=7), broken, out / f"{name}-broken", world)
    os.environ["WORLD_SIZE"] = "2"


ROLES = {"first": first, "second": second, "nodes": nodes, "sharded": sharded}

if __name__ == "__main__":
    torch.set_num_threads(1)
    role, folder = sys.argv[1], Path(sys.argv[2])
    with joined(torch.device("cpu")) as world:
        ROLES[role](folder, world)
