"""Distributed training: process group, joint decisions, and the model replicated (DDP) or sharded (FSDP2).

Processes are started by `torchrun`, by `versatile train --nproc N`, or by a cluster's scheduler, which set RANK,
LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Gradients are exchanged over NCCL between GPUs and over gloo
between CPUs; decisions (stop, write a checkpoint, ...) always use gloo, so they do not wait for the GPU.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from versatile_diffusion.printable import shown
from versatile_diffusion.training.engine.launch import end_with_launcher

Result = TypeVar("Result")
PULSE = 10.0
TIMEOUT_MINUTES = 30.0
"""Until an unresponsive process counts as dead."""
BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """The processes of a run, and the rank of this one.

    Args:
        rank: of this process; the first, 0, writes files and messages.
        size: number of processes.
        control: group for decisions; None for a single process.
        pulse: seconds between heartbeats of the first process while the others wait for it.
    """

    rank: int = 0
    size: int = 1
    control: Any = None
    pulse: float = PULSE

    @property
    def first(self) -> bool:
        return self.rank == 0

    @classmethod
    def alone(cls) -> World:
        """A single process.

        Raises:
            ValueError: WORLD_SIZE in the environment is larger; each process would train alone.
        """
        _compare(1)
        return cls()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def on_first(self, action: Callable[[], Result]) -> Result:
        """Run `action` in the first process only, and return its result in all of them."""
        result = [self.first_alone(action)]
        if self.size > 1:
            dist.broadcast_object_list(result, src=0, group=self.control)
        return result[0]  # type: ignore[return-value]

    def first_alone(self, action: Callable[[], Result]) -> Result | None:
        """Run `action` in the first process and return its result there; None in the others, which wait for it. The
        first process sends heartbeats, so there is no limit on its time."""
        if self.size == 1:
            return action()
        if not self.first:
            while self._at_work():
                pass
            return None
        with self._pulsing():
            return action()

    def _at_work(self, told: bool = False) -> bool:
        """Broadcast the heartbeat flag of the first process; the usual time-out applies."""
        flag = torch.tensor([told], dtype=torch.uint8)
        dist.broadcast(flag, src=0, group=self.control)
        return bool(flag)

    @contextmanager
    def _pulsing(self) -> Iterator[None]:
        """Send heartbeats to the other processes while the block runs, and a final signal after it."""
        ended = threading.Event()
        problems: list[RuntimeError] = []

        def pulse() -> None:
            try:
                while not ended.wait(self.pulse):
                    self._at_work(True)
            except RuntimeError as error:  # another process died
                problems.append(error)

        thread = threading.Thread(target=pulse, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if problems:
            raise problems[0]
        self._at_work(False)

    def any(self, wishes: Sequence[bool]) -> list[bool]:
        """Logical OR of each flag over all processes."""
        if self.size == 1:
            return list(wishes)
        flags = torch.tensor(wishes, dtype=torch.uint8)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.control)
        return flags.bool().tolist()


@contextmanager
def joined(device: torch.device, timeout: timedelta = timedelta(minutes=TIMEOUT_MINUTES)) -> Iterator[World]:
    """Join the process group that the environment describes (a single process without one), and leave it at the end.

    Args:
        device: of the model; on CUDA the one from `place`.
        timeout: time without an answer after which a process counts as dead; heartbeats count as answers.

    Raises:
        ValueError: the environment is incomplete, or its WORLD_SIZE is not the size of the group.
        ConnectionError: another process died or did not join.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    mine = wanted > 1 and not dist.is_initialized()
    if mine:
        if missing := [name for name in VARIABLES if name not in os.environ]:
            raise ValueError(
                f"WORLD_SIZE is {wanted}, but {', '.join(missing)} is not set; use torchrun or versatile train --nproc"
            )
        end_with_launcher()
    if not mine and not dist.is_initialized():
        yield World.alone()
        return
    try:
        if mine:
            dist.init_process_group(BACKENDS[device.type], timeout=timeout)
        _compare(dist.get_world_size())
        control = dist.new_group(backend="gloo", timeout=timeout)
        world = World(dist.get_rank(), dist.get_world_size(), control, min(PULSE, timeout.total_seconds() / 4))
        world.gather(world.rank)  # test the connection
    except RuntimeError as error:
        rank, address, port = (os.environ.get(name, "?") for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
        raise ConnectionError(
            f"process {rank} of {wanted} could not reach all others at {address}:{port} "
            f"({str(error).strip().partition(chr(10))[0]}); if one of them died, see its message; then restart all"
        ) from error
    yield world
    if mine:  # not after an error: a group that lost a process may wait for it forever
        dist.destroy_process_group()


def place(device: str | None) -> torch.device:
    """The device by name (default: the GPU if available); with several GPUs, the one of this process.

    Raises:
        ValueError: more processes than GPUs, or an unsupported device.
    """
    found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if found.type not in BACKENDS:
        raise ValueError(f"device is {shown(device)}; training runs on {' and '.join(BACKENDS)}")
    if found.type == "cuda":
        count, mine = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
        index = mine if found.index is None else found.index
        if index >= count:
            raise ValueError(f"process {mine} of this machine needs GPU {index}, but there are {count} GPUs")
        found = torch.device("cuda", index)
        torch.cuda.set_device(found)
    return found


def _compare(size: int) -> None:
    told = os.environ.get("WORLD_SIZE", "1")
    if told != str(size):
        raise ValueError(
            f"WORLD_SIZE in the environment is {told}, but the process group has {size} members, which would train "
            "separately; use torchrun or versatile train --nproc, or unset WORLD_SIZE"
        )


@contextmanager
def losses_told(world: World, out: Path) -> Iterator[None]:
    """Convert errors of the process group into a message that says what to do.

    Raises:
        ConnectionError: another process died or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        words = ("gloo", "NCCL", "onnection closed", "onnection reset", "imed out", "imeout")
        if world.size == 1 or not (isinstance(error, dist.DistError) or any(word in str(error) for word in words)):
            raise
        raise ConnectionError(
            f"process {world.rank} of {world.size} lost another one, which died (see its message) or did not answer in "
            f"time; the last good checkpoint is kept in {out}: run the same command again"
        ) from error


class ObjectivePass(nn.Module):
    """The loss computation of an objective as a module, so that it can be replicated or sharded."""

    def __init__(self, objective: Any, module: nn.Module):
        super().__init__()
        self.objective, self.module = objective, module

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = self.objective.loss(self.module, batch)
        return loss, {name: part.detach() for name, part in parts.items()}


def replicate(whole: nn.Module) -> DistributedDataParallel:
    """DDP; parameters that a flow does not use get no gradient, as in a single process."""
    return DistributedDataParallel(whole, find_unused_parameters=True)


def mesh_of(device: torch.device, within_nodes: bool = False) -> DeviceMesh:
    """A 1-D mesh of all processes; with `within_nodes`, a 2-D mesh that shards within nodes and replicates across
    (HSDP).

    Raises:
        ValueError: the nodes have different numbers of processes.
    """
    size = dist.get_world_size()
    if not within_nodes:
        return init_device_mesh(device.type, (size,))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    sizes: list[Any] = [None] * size
    dist.all_gather_object(sizes, local)
    if set(sizes) != {local} or size % local:
        raise ValueError(f"hsdp needs the same number of processes on each node; got {sorted(set(sizes))} of {size}")
    return init_device_mesh(device.type, (size // local, local), mesh_dim_names=("replicate", "shard"))


def shard(whole: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, bf16: bool) -> None:
    """Shard every parameter of `whole` over the processes, in place (FSDP2).

    Args:
        whole: on its device, with the same weights in every process.
        blocks: submodules to gather one at a time, which must be called through `forward`; the rest is gathered at
            once.
        mesh: from `mesh_of`.
        bf16: gather parameters in bfloat16; gradients are reduced in float32.
    """
    for p in whole.parameters():
        p.data = p.data.contiguous()  # FSDP requires contiguous parameters
    half: dict[str, Any] = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if bf16 else {}
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=MixedPrecisionPolicy(**half))
    fully_shard(whole, mesh=mesh, mp_policy=MixedPrecisionPolicy(**half, cast_forward_inputs=False))


def adding_up(module: nn.Module) -> AbstractContextManager[Any]:
    """Accumulate gradients locally while the block runs; DDP then reduces them once per step. (FSDP always reduces.)"""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def gather_tree(tree: Any, keep: bool = True) -> Any:
    """Gather the shards in `tree` into whole tensors in main memory. All processes must call it; None unless `keep`."""

    def whole(shard: DTensor) -> Tensor | None:
        tensor = shard.full_tensor()
        return tensor.cpu() if keep else None

    return tree_map_only(DTensor, whole, tree)


def scatter(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's shard of a whole tensor, sharded like `like`; the tensor itself if `like` is not sharded."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
