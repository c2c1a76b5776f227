"""Wall-clock of `versatile text-to-image` with four pictures, each time in a new process.

    .venv/bin/python benchmarks/cold_start.py [--runs 3] [--budget 15] [further options of the command]

Prints one line of JSON: seconds from the start of the process to its end, the seconds of them that sampling took, and
the threads that torch may use. Exit code 1 if the median is over the budget.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

COMMAND = [sys.executable, "-m", "versatile_diffusion", "text-to-image", "a red apple", "--count", "4", "--seed", "0"]


def run_once(options: list[str]) -> tuple[float, float]:
    """Seconds in all, and those of sampling."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run([*COMMAND, "--out", folder, "--json", *options], capture_output=True, text=True)
        seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr.strip())
    result: dict[str, Any] = json.loads(done.stdout)
    assert len(result["files"]) == 4, result
    return seconds, result["seconds"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="how often (the median counts)")
    parser.add_argument("--budget", type=float, default=15.0, help="seconds that the median may take")
    arguments, options = parser.parse_known_args()
    whole, sampling = zip(*(run_once(options) for _ in range(arguments.runs)), strict=True)
    median = statistics.median(whole)
    report = {
        "seconds": [round(seconds, 2) for seconds in whole],
        "of them sampling": list(sampling),
        "median": round(median, 2),
        "budget": arguments.budget,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }
    print(json.dumps(report))
    return int(median > arguments.budget)


if __name__ == "__main__":
    sys.exit(main())
