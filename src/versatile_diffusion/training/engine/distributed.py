"""Several processes, one run: joining them, deciding together, and the model replicated (DDP) or sharded (FSDP2).

The processes are started by `torchrun`, by `versatile train --nproc N`, or by a cluster's scheduler; all of them set
RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Gradients travel over nccl between GPUs and over gloo between
CPUs; decisions (stop, write a checkpoint, ...) always travel over gloo, so that they do not wait for the GPU.
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
    """The processes of a run, and which of them this one is.

    Args:
        rank: from 0; the first one writes and speaks.
        size: how many there are.
        control: the group over which they decide; None where there is one process.
        pulse: seconds between two signs of life of the first process while the others wait for it alone.
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
        """One process.

        Raises:
            ValueError: the environment says that there are more, each of which would train by itself.
        """
        _compare(1)
        return cls()

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def on_first(self, action: Callable[[], Result]) -> Result:
        """What `action` returns; only the first process runs it, and the others wait for it."""
        result = [self.first_alone(action)]
        if self.size > 1:
            dist.broadcast_object_list(result, src=0, group=self.control)
        return result[0]  # type: ignore[return-value]

    def first_alone(self, action: Callable[[], Result]) -> Result | None:
        """What `action` returns in the first process; None in the others, which wait for it: as long as it is at work,
        however long that is, since it gives a sign of life now and then."""
        if self.size == 1:
            return action()
        if not self.first:
            while self._at_work():
                pass
            return None
        with self._pulsing():
            return action()

    def _at_work(self, told: bool = False) -> bool:
        """What the first process tells the others; they wait for it no longer than for any answer."""
        flag = torch.tensor([told], dtype=torch.uint8)
        dist.broadcast(flag, src=0, group=self.control)
        return bool(flag)

    @contextmanager
    def _pulsing(self) -> Iterator[None]:
        """Tells the others that this process is at work while the block runs, and that it is done with it after."""
        ended = threading.Event()
        problems: list[RuntimeError] = []

        def pulse() -> None:
            try:
                while not ended.wait(self.pulse):
                    self._at_work(True)
            except RuntimeError as error:  # another process is lost
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
        """Which of the wishes at least one process has."""
        if self.size == 1:
            return list(wishes)
        flags = torch.tensor(wishes, dtype=torch.uint8)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.control)
        return flags.bool().tolist()


@contextmanager
def joined(device: torch.device, timeout: timedelta = timedelta(minutes=TIMEOUT_MINUTES)) -> Iterator[World]:
    """Joins the processes that the environment tells of (or stays alone), and leaves them at the end.

    Args:
        device: where the model will be; on CUDA the one of `place`.
        timeout: after this long without an answer another process counts as dead; one that works alone answers.

    Raises:
        ValueError: the environment is incomplete, or the group has another size than it says.
        ConnectionError: another process died or did not come.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    mine = wanted > 1 and not dist.is_initialized()
    if mine:
        if missing := [name for name in VARIABLES if name not in os.environ]:
            raise ValueError(
                f"WORLD_SIZE is {wanted}, {', '.join(missing)} not set: start with torchrun or versatile train --nproc"
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
        world.gather(world.rank)  # they do hear each other
    except RuntimeError as error:
        rank, address, port = (os.environ.get(name, "?") for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
        raise ConnectionError(
            f"process {rank} of {wanted} did not find all others at {address}:{port} "
            f"({str(error).strip().partition(chr(10))[0]}); if one of them died, its message says why; start all again"
        ) from error
    yield world
    if mine:  # not after an error: a group that lost a process may wait for it
        dist.destroy_process_group()


def place(device: str | None) -> torch.device:
    """The device by name (the GPU where there is one); of several GPUs the one of this process.

    Raises:
        ValueError: more processes than GPUs, or a device that there is none of.
    """
    found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if found.type not in BACKENDS:
        raise ValueError(f"device is {shown(device)}; training runs on {' and '.join(BACKENDS)}")
    if found.type == "cuda":
        count, mine = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
        index = mine if found.index is None else found.index
        if index >= count:
            raise ValueError(f"process {mine} of this machine would take GPU {index}, and there are {count}")
        found = torch.device("cuda", index)
        torch.cuda.set_device(found)
    return found


def _compare(size: int) -> None:
    told = os.environ.get("WORLD_SIZE", "1")
    if told != str(size):
        raise ValueError(
            f"WORLD_SIZE in the environment is {told}, but the group of processes has {size}: each part would train by "
            "itself; start with torchrun or versatile train --nproc, or unset WORLD_SIZE"
        )


@contextmanager
def losses_told(world: World, out: Path) -> Iterator[None]:
    """Turns the network's errors into one that says what to do.

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
            f"process {world.rank} of {world.size} lost another one, which died (see its message) or gave no answer in "
            f"time; the last good checkpoint is kept in {out}: start the same command again"
        ) from error


class ObjectivePass(nn.Module):
    """A pass of an objective as a module: what is replicated or sharded, whichever methods the objective calls."""

    def __init__(self, objective: Any, module: nn.Module):
        super().__init__()
        self.objective, self.module = objective, module

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = self.objective.loss(self.module, batch)
        return loss, {name: part.detach() for name, part in parts.items()}


def replicate(whole: nn.Module) -> DistributedDataParallel:
    """The whole model in every process; parameters that a flow leaves alone get no gradient, as in one process."""
    return DistributedDataParallel(whole, find_unused_parameters=True)


def mesh_of(device: torch.device, within_nodes: bool = False) -> DeviceMesh:
    """All processes in a row; or `within_nodes` those of each node in a row, whose shards are a whole model (HSDP).

    Raises:
        ValueError: the nodes do not have as many processes each.
    """
    size = dist.get_world_size()
    if not within_nodes:
        return init_device_mesh(device.type, (size,))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    sizes: list[Any] = [None] * size
    dist.all_gather_object(sizes, local)
    if set(sizes) != {local} or size % local:
        raise ValueError(f"hsdp needs as many processes on each node; they have {sorted(set(sizes))} of {size}")
    return init_device_mesh(device.type, (size // local, local), mesh_dim_names=("replicate", "shard"))


def shard(whole: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, bf16: bool) -> None:
    """Leaves each process a part of every parameter of `whole`, in place (FSDP2).

    Args:
        whole: on its device in every process, the same weights everywhere.
        blocks: modules inside, called by their `forward`, that are gathered one at a time; the rest at once.
        mesh: of `mesh_of`.
        bf16: gather parameters in bfloat16; gradients are added up in float32.
    """
    for p in whole.parameters():
        p.data = p.data.contiguous()  # FSDP takes no other memory format
    half: dict[str, Any] = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if bf16 else {}
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=MixedPrecisionPolicy(**half))
    fully_shard(whole, mesh=mesh, mp_policy=MixedPrecisionPolicy(**half, cast_forward_inputs=False))


def adding_up(module: nn.Module) -> AbstractContextManager[Any]:
    """While it lasts, gradients are only added up here; DDP then sends them once a step. (Shards are sent at once.)"""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def gather_tree(tree: Any, keep: bool = True) -> Any:
    """`tree` with whole tensors, in main memory, in place of shards. All processes call it; None for those not kept."""

    def whole(shard: DTensor) -> Tensor | None:
        tensor = shard.full_tensor()
        return tensor.cpu() if keep else None

    return tree_map_only(DTensor, whole, tree)


def scatter(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, where `like` is a shard of one of the same shape; else itself."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
