"""Sharded checkpoints: every process writes its own part to a folder or URL (`s3://`, ...) in the background.

They use `torch.distributed.checkpoint`: no process ever holds the whole model, and any number of processes can load
them. A folder without `.metadata`, which is written last, is incomplete and ignored.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import empty as empty_shards
from tqdm import tqdm

from versatile_diffusion.training.engine.distributed import World
from versatile_diffusion.training.engine.state import RunState

WHOLE = ".metadata"
Result = TypeVar("Result")


class ShardedCheckpoints:
    """Checkpoints `PLACE/STEP/` of the newest steps.

    Args:
        place: a folder or URL that every process can reach.
        keep: number of checkpoints to keep.
        world: the processes; all must create it at the same time.
    """

    def __init__(self, place: str, keep: int, world: World):
        self.place, self.keep, self.world = place.rstrip("/"), keep, world
        several = world.size > 1
        self.how: dict[str, Any] = {"process_group": dist.new_group(backend="gloo") if several else None}
        self.how["no_dist"] = not several
        self.pending: Future[Any] | None = None

    def save(self, state: RunState, identity: Mapping[str, Any]) -> None:
        """Start to write a state from a copy; all processes must call it.

        Raises:
            OSError: the previous checkpoint could not be written.
        """
        self.wait()
        told = {"identity": dict(identity), "step": state.step, "elapsed": state.elapsed, "batches": state.batches}
        content = {
            "told": io.BytesIO(json.dumps(told).encode()),
            f"own.{self.world.rank}": _pack(state.own()),
            "module": state.module.state_dict(),
            "average": state.average.state_dict(),
            "posthoc": {str(number): dict(average) for number, average in enumerate(state.posthoc.averages)},
            "optimizers": {str(number): _plain(one) for number, one in enumerate(state.optimizers)},
        }
        writer = _storage(f"{self.place}/{state.step:07d}", write=True)
        saved = async_save(content, storage_writer=writer, **self.how)
        assert isinstance(saved, Future)
        self.pending = saved

    def wait(self) -> None:
        """Wait until everything is written."""
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        try:
            pending.result()
        except (Exception, CheckpointException) as error:  # the latter is not an Exception
            raise OSError(f"a checkpoint could not be written to {self.place} ({error}); earlier ones stay") from error
        self.world.on_first(self._prune)

    def load(self, state: RunState, identity: Mapping[str, Any]) -> None:
        """Load the newest readable checkpoint, if any.

        Raises:
            ValueError: it belongs to other settings, or all are damaged.
        """
        steps = self.world.on_first(lambda: steps_at(self.place))
        problems: list[str] = []
        for step in reversed(steps):
            folder = f"{self.place}/{step:07d}"
            told = self._whole(self._told, folder, problems)
            if told is None:
                continue
            state.check(told, identity, self.world, folder)
            owns = self._whole(partial(self._read, state), folder, problems)
            if owns is None:
                continue
            state.accept(told, identity, self.world, folder)
            state.take_over(owns, self.world)
            return
        if steps:
            raise ValueError(f"every checkpoint at {self.place} is damaged ({'; '.join(problems)}); remove them")

    def _whole(self, read: Callable[[str], Result], folder: str, problems: list[str]) -> Result | None:
        """Read from a checkpoint; None, and reported once, if any process fails."""
        found, problem = None, ""
        try:
            found = read(folder)
        except (Exception, CheckpointException) as error:  # damaged files may raise anything
            problem = f"{folder} cannot be read ({' '.join(str(error).split())[:200]})"
        if any(self.world.any([bool(problem)])):
            problems.append(problem or folder)
            if self.world.first:
                tqdm.write(f"{problems[-1]}: skipped", file=sys.stderr)
            return None
        return found

    def _told(self, folder: str) -> dict[str, Any]:
        """Metadata of a checkpoint."""
        told: dict[str, Any] = {"told": io.BytesIO()}
        load(told, storage_reader=_storage(folder), **self.how)
        found: dict[str, Any] = json.loads(told["told"].getvalue())
        return found

    def _read(self, state: RunState, folder: str) -> list[dict[str, Any]]:
        """Load all tensors into the state; return the separate state of each process."""
        metadata: Metadata = _storage(folder).read_metadata()
        names = list(metadata.state_dict_metadata)
        optimizers = [_template(one, number, metadata) for number, one in enumerate(state.optimizers)]
        content: dict[str, Any] = {
            "module": state.module.state_dict(),
            "average": state.average.state_dict(),
            "posthoc": {str(number): dict(average) for number, average in enumerate(state.posthoc.averages)},
            "optimizers": {str(number): one for number, one in enumerate(optimizers)},
            **{name: io.BytesIO() for name in names if name.startswith("own.")},
        }
        load(content, storage_reader=_storage(folder), **self.how)
        for number, (optimizer, loaded) in enumerate(zip(state.optimizers, optimizers, strict=True)):
            groups = json.loads(content["optimizers"][str(number)]["groups"].getvalue())
            by_number = {int(name): values for name, values in loaded["state"].items()}
            optimizer.load_state_dict({"state": by_number, "param_groups": _tuples(groups)})
        ranks = sorted((name for name in content if name.startswith("own.")), key=lambda name: int(name[4:]))
        return [torch.load(content[name], weights_only=True) for name in ranks]

    def _prune(self) -> None:
        from fsspec.core import url_to_fs

        system, root = url_to_fs(self.place)
        for step in steps_at(self.place)[: -self.keep]:
            with suppress(OSError):
                system.rm(f"{root}/{step:07d}", recursive=True)


def steps_at(place: str) -> list[int]:
    """The steps with complete checkpoints."""
    from fsspec.core import url_to_fs

    system, root = url_to_fs(place)
    found = [str(file).split("/")[-2] for file in system.glob(f"{root}/*/{WHOLE}")]
    return sorted(int(name) for name in found if name.isdigit())


def average_at(place: str) -> tuple[dict[str, Tensor], int]:
    """The unsharded EMA of the newest checkpoint, and its step.

    Raises:
        ValueError: no checkpoint.
    """
    if not (steps := steps_at(place)):
        raise ValueError(f"{place} has no complete checkpoint")
    folder = f"{place.rstrip('/')}/{steps[-1]:07d}"
    stored = _storage(folder).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(told.size, dtype=told.properties.dtype)
        for name, told in stored.items()
        if name.startswith("average.") and isinstance(told, TensorStorageMetadata)
    }
    load(tensors, storage_reader=_storage(folder), no_dist=True)
    return {name.removeprefix("average."): value for name, value in tensors.items()}, steps[-1]


def _storage(folder: str, write: bool = False) -> Any:
    """Reader or writer of a checkpoint."""
    if "://" in folder:
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

        return FsspecWriter(folder) if write else FsspecReader(folder)
    return FileSystemWriter(folder) if write else FileSystemReader(folder)


def _pack(value: dict[str, Any]) -> io.BytesIO:
    packed = io.BytesIO()
    torch.save(value, packed)
    packed.seek(0)
    return packed


def _plain(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state with strings as keys, and its groups as JSON."""
    told = optimizer.state_dict()
    state = {str(number): dict(values) for number, values in told["state"].items()}
    return {"state": state, "groups": io.BytesIO(json.dumps(told["param_groups"]).encode())}


def _template(optimizer: torch.optim.Optimizer, number: int, metadata: Metadata) -> dict[str, Any]:
    """Empty tensors with the shapes of the stored ones, sharded like the parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[str, dict[str, Any]] = {}
    before = f"optimizers.{number}.state."
    for name, told in metadata.state_dict_metadata.items():
        if not name.startswith(before) or not isinstance(told, TensorStorageMetadata):
            continue
        which, _, kind = name.removeprefix(before).partition(".")
        parameter, dtype = parameters[int(which)], told.properties.dtype
        if isinstance(parameter, DTensor) and told.size == parameter.shape:
            value: Tensor = empty_shards(
                *told.size, dtype=dtype, device_mesh=parameter.device_mesh, placements=parameter.placements
            )
        else:
            value = torch.empty(told.size, dtype=dtype)
        state.setdefault(which, {})[kind] = value
    return {"state": state, "groups": io.BytesIO()}


def _tuples(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert lists back to tuples, except lists of parameters."""
    return [
        {name: tuple(value) if isinstance(value, list) and name != "params" else value for name, value in one.items()}
        for one in groups
    ]
