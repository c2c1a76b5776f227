"""A run on a Ray cluster: Ray Train starts the same loop in one process per device, and again on what is left or new
when a node is lost. All that a run is lies in its folder, so it goes on from there."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from versatile_diffusion.files import write_json
from versatile_diffusion.training.engine.distributed import TIMEOUT_MINUTES
from versatile_diffusion.training.engine.loop import Outcome

RAY = "ray"
"""In the run's folder: what Ray keeps of it, and how it ended."""
ENDED = "ended.json"
MOST_RESTARTS = 10
"""How often a group that lost a process is started again."""


@dataclass(frozen=True)
class Group:
    """The processes.

    Args:
        address: of the cluster; `"local"` starts one on this machine.
        nodes: machines.
        per_node: processes on each, a device each.
    """

    address: str
    nodes: int = 1
    per_node: int = 1

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.per_node < 1:
            raise ValueError(f"{self.nodes} nodes with {self.per_node} processes each; both must be 1 or more")


def run_on_ray(arguments: Mapping[str, Any], group: Group, tell: Callable[[str], None] = print) -> Outcome:
    """`run` with these arguments, in the processes of a group. The run's folder and the data are on a file system that
    all nodes share, or the data elsewhere by URL.

    Args:
        arguments: of `recipes.run.run`.
        group: how many processes, and where.
        tell: is given what people should know.

    Raises:
        ValueError: as from `run`, or Ray is not installed.
        ConnectionError: the group lost processes too often.
    """
    try:
        import ray
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ValueError(f"--ray needs Ray ({error}); pip install 'versatile-diffusion[cluster,data]'") from error
    out = Path(arguments["out"]).resolve()
    ended = out / RAY / ENDED
    ended.unlink(missing_ok=True)
    mine = not ray.is_initialized()
    if mine:
        ray.init(group.address, log_to_driver=False)
    gpu = ray.cluster_resources().get("GPU", 0) > 0 and arguments.get("device") in (None, "cuda")
    minutes = arguments.get("timeout", TIMEOUT_MINUTES)
    scaling = ray.train.ScalingConfig(
        num_workers=group.nodes * group.per_node,
        use_gpu=gpu,
        resources_per_worker={"GPU" if gpu else "CPU": 1},
        placement_strategy="STRICT_SPREAD" if group.per_node == 1 else "SPREAD",
    )
    failures = ray.train.FailureConfig(max_failures=MOST_RESTARTS)
    trainer = TorchTrainer(
        in_worker,
        train_loop_config={**arguments, "out": str(out), "folder": os.getcwd()},
        scaling_config=scaling,
        run_config=ray.train.RunConfig(storage_path=str(out / RAY), name="group", failure_config=failures),
        torch_config=TorchConfig("nccl" if gpu else "gloo", timeout_s=math.ceil(60 * minutes)),
    )
    tell(f"{scaling.num_workers} processes on {group.nodes} nodes of {ray.get_runtime_context().gcs_address}")
    try:
        trainer.fit()
    except Exception as error:
        raise ConnectionError(
            f"the group ended ({' '.join(str(error).split())[:500]}); the last good checkpoint is kept in {out}: start "
            "the same command again"
        ) from error
    finally:
        if mine:
            ray.shutdown()
    told = json.loads(ended.read_text(encoding="utf-8"))
    if "error" in told:
        raise ValueError(told["error"])
    return Outcome(**told)


def in_worker(arguments: dict[str, Any]) -> None:
    """The run in one of the processes; how it ended stands in its folder then. What a user has to put right ends the
    group for good."""
    from versatile_diffusion.recipes.run import run

    arguments = dict(arguments)
    os.chdir(arguments.pop("folder"))
    ended = Path(arguments["out"]) / RAY / ENDED
    if ended.is_file():
        return
    first = os.environ.get("RANK", "0") == "0"
    try:
        outcome = run(**arguments, tell=print)
    except (ValueError, FloatingPointError) as error:
        write_json(ended, {"error": str(error)})
        raise
    if first:
        write_json(ended, asdict(outcome))
