"""The road from metadata to a trained model in small, on Ray nodes of this machine, with the counts of every stage.

    python scripts/small_road.py --out build/road                       # 100,000 rows, 2,000 images, two nodes
    python scripts/small_road.py --out build/road --rows 5000 --nodes 0 # without Ray

Metadata in LAION's columns is made up, about one row in fifty passes the paper's filters, and a web server of this
machine has the images: most of them good, some gone, broken, moved, busy at first or of another shape. Then come the
commands of docs/guides/scale.md: select, fetch, encode, train. The counts must add up from the rows to the trained
samples.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATHS = [str(ROOT / "tests"), str(ROOT / "src")]
sys.path[:0] = PATHS
os.environ |= {"PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"}  # of the nodes, too

KINDS = ("gone", "page", "cut", "thin", "later", "moved")
"""What becomes of six images in a hundred; see tests/image_server.py."""
FAIL = ("gone", "page", "cut", "thin")
BATCH = 8


def metadata(folder: Path, rows: int, server: str) -> None:
    """Files of 20,000 rows each."""
    import laion
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, rows, 20_000)):
        count = min(20_000, rows - start)
        kinds = [
            f"{server}/{KINDS[n % 100] if n % 100 < len(KINDS) else 'ok'}/{n}" for n in range(start, start + count)
        ]
        table = laion.rows(count, number).with_columns(URL=pl.Series(kinds), similarity=pl.col("similarity") - 0.06)
        table.write_parquet(folder / f"part-{number:05d}.parquet")


@contextmanager
def cluster(nodes: int) -> Iterator[list[str]]:
    """The options of commands that use a Ray cluster of so many nodes of one processor each; none without nodes."""
    if not nodes:
        yield []
        return
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_worker_niceness", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1)
        yield ["--ray", made.address]
    finally:
        made.shutdown()


def versatile(*words: Any) -> dict[str, Any]:
    """What a command prints as JSON."""
    command = [sys.executable, "-m", "versatile_diffusion", *map(str, words), "--json"]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"versatile {' '.join(map(str, words))}: exit code {done.returncode}")
    print(f"{time.monotonic() - began:6.0f} s  versatile {' '.join(map(str, words))}", flush=True)
    return json.loads(done.stdout)


def travel(out: Path, rows: int, steps: int, nodes: int) -> dict[str, Any]:
    """All stages; returns the counts."""
    from image_server import serving
    from tiny import build_tiny_pipeline

    if not (out / "model" / "model_index.json").is_file():
        build_tiny_pipeline().save_pretrained(out / "model")
    with serving() as server, cluster(nodes) as ray:
        if not (out / "laion").is_dir():
            metadata(out / "laion", rows, server)
        selected = versatile("data", "select", out / "laion", "--out", out / "selected", *ray)
        fetched = versatile(
            *(
                "data",
                "fetch",
                out / "selected",
                "--out",
                out / "shards",
                "--shard",
                max(25, rows // 400),
                "--allow-private",
            ),
            *("--retries", 3, "--at-once", 16, "--per-host", 16, *ray),
        )
        encoded = versatile(
            *("data", "encode", out / "shards", "--out", out / "encoded", "--model", out / "model", "--bad", 0.2, *ray)
        )
        trained = versatile(
            *("train", "--from", out / "model", "--stream", out / "encoded", "--out", out / "run", "--steps", steps),
            *("--batch", BATCH, "--window", 64, "--device", "cpu", "--flows", "text-to-image"),
            *("--eval-minutes", 999, "--sample-minutes", 999, "--accumulate", 1 if nodes else 2),
            *((*ray, "--nodes", nodes) if nodes else ()),
        )
    return summed(out, selected, fetched, encoded, trained)


def summed(out: Path, selected: Any, fetched: Any, encoded: Any, trained: Any) -> dict[str, Any]:
    """The counts, which must add up."""
    import torch

    from versatile_diffusion.data.encoded import EncodedSet
    from versatile_diffusion.training.engine.checkpoints import Checkpoints

    newest = Checkpoints(out / "run").newest()
    assert newest is not None
    content = torch.load(newest, weights_only=True)
    lanes = [mark for own in (content, *content["others"]) for mark in own["reading"].values()]
    drawn = sum(lane["fed"] - len(lane["waiting"]) for lane in lanes)
    first = {reason: told["first"] for reason, told in selected["reasons"].items()}
    counts = {
        "rows": selected["read"],
        "rejected": first,
        "kept": selected["kept"],
        "failed": fetched["failed"],
        "fetched": fetched["fetched"],
        "skipped": encoded["bad"],
        "encoded": encoded["items"],
        "shards": len(EncodedSet.open(out / "encoded").index["sets"]),
        "lanes": len(lanes),
        "steps": trained["step"],
        "trained": drawn,
        "epochs": drawn / encoded["items"],
    }
    assert counts["rows"] == counts["kept"] + sum(first.values()) + selected["duplicates"], counts
    assert counts["kept"] == fetched["rows"] == counts["fetched"] + sum(fetched["failed"].values()), counts
    assert counts["fetched"] == counts["encoded"] + sum(encoded["bad"].values()), counts
    assert counts["trained"] == counts["steps"] * BATCH * counts["lanes"], counts
    assert trained["finished"], trained
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    counts = travel(given.out.resolve(), given.rows, given.steps, given.nodes)
    (given.out / "road.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    for name, count in counts.items():
        print(f"{name:10} {count:,.4g}" if isinstance(count, float) else f"{name:10} {count}")


if __name__ == "__main__":
    main()
