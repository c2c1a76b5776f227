"""What a run writes down: a line of JSON per entry, and the same for TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Tracker:
    """Log of the run in `out`. Lines after `step` (of a run that was killed) are taken back first."""

    def __init__(self, out: Path, step: int):
        self.out = out
        path = out / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        path.write_text("".join(f"{line}\n" for line in kept))
        self.file = path.open("a")
        self.board = _board(out / "tensorboard", step)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()

    def log(self, step: int, values: dict[str, float], **extra: float) -> None:
        """One entry; `extra` are numbers that differ between equal runs, such as seconds."""
        rounded = {name: round(value, 3) for name, value in extra.items()}
        self.file.write(json.dumps({"step": step, **values, **rounded}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in {**values, **extra}.items():
                self.board.add_scalar(name, value, step)

    def summary(self, metrics: dict[str, float], step: int, elapsed: float) -> None:
        """`metrics.json`: what the finished run reached."""
        content = {"steps": step, "seconds": round(elapsed, 1), "metrics": metrics}
        (self.out / "metrics.json").write_text(json.dumps(content, indent=2) + "\n")


def _step_of(line: str) -> float:
    """The step of a line; a line cut short by a kill counts as after everything."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=step + 1)
