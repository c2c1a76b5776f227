"""How long `versatile data select` takes beside bare polars with the same filter, on made-up rows of LAION-2B-en.

    python benchmarks/selecting.py --rows 10000000 --files 10

Each figure is of a process of its own, in turn A B A B: seconds of the clock and of the processor, and peak memory.
"select" has the ledger without histograms; bare polars has neither. What select writes is on the disk when it is done,
so polars is timed with that, too.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]


def bare(inputs: Path, out: Path, synced: bool = False) -> None:
    """The paper's five filters, with nothing else."""
    import polars as pl

    aspect = pl.col("WIDTH").cast(pl.Float64) / pl.col("HEIGHT").cast(pl.Float64)
    area = pl.col("WIDTH").cast(pl.Float64) * pl.col("HEIGHT").cast(pl.Float64)
    third = pl.lit(0.3, dtype=pl.Float32)
    keeps = (
        (pl.col("similarity") > 0.3)
        & (pl.col("punsafe") < third)
        & (pl.col("pwatermark") < third)
        & aspect.is_between(0.6, 1.6667)
        & (area > 49152)
    )
    out.mkdir()
    for file in sorted(inputs.glob("*.parquet")):
        pl.scan_parquet(file).filter(keeps).sink_parquet(out / file.name)
        if synced:
            with (out / file.name).open("rb+") as written:
                os.fsync(written.fileno())


def ours(inputs: Path, out: Path, histograms: bool = False) -> None:
    from versatile_diffusion.data.rules import Selection
    from versatile_diffusion.data.select import SelectPlan, select, tables

    select(tables([str(inputs)]), SelectPlan(Selection(), out, histograms=histograms))


WAYS = {
    "polars": bare,
    "polars, synced": partial(bare, synced=True),
    "select": ours,
    "select with histograms": partial(ours, histograms=True),
}


def run(way: str, inputs: Path, out: Path) -> None:
    """One way in this process, once all that it needs is imported; its figures on stdout."""
    import fsspec  # noqa: F401
    import polars as pl  # noqa: F401

    import versatile_diffusion.data.select  # noqa: F401

    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    WAYS[way](inputs, out)
    after = resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(time.monotonic() - began, processor, peak())


def peak() -> float:
    """Most memory of this process in MB (`ru_maxrss` would be that of the process that started it, if that is more)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return run(given.one, given.inputs, given.out)
    import laion

    with tempfile.TemporaryDirectory() as folder:
        inputs = laion.write(Path(folder, "laion"), given.files, given.rows // given.files)
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(given.repeats):
            for way in WAYS:
                out = Path(folder, "out")
                command = [sys.executable, __file__, "--one", way, "--inputs", str(inputs), "--out", str(out)]
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[way].append([float(number) for number in told.split()])
                shutil.rmtree(out)
        middle = {way: [statistics.median(column) for column in zip(*rows, strict=True)] for way, rows in found.items()}
        print("| | seconds | of the processor | over polars | peak, MB |\n|---|---:|---:|---:|---:|")
        for way, (clock, processor, peak) in middle.items():
            print(f"| {way} | {clock:.2f} | {processor:.2f} | {clock / middle['polars'][0]:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
