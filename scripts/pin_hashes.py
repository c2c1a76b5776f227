"""Writes constraints/hashes.txt: every package that all extras need, with its version and the hashes of its files.

    python scripts/pin_hashes.py        (needs the extra `audit` and an index that answers)

Versions follow constraints/ci.txt. torch, and what its CUDA builds alone need, is left out: which build is right
depends on the machine. Where exactly these files are wanted, install torch first, then:

    pip install --no-deps --require-hashes -r constraints/hashes.txt
    pip install --no-deps -e . -e ./models/emoji
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "constraints" / "hashes.txt"
OF_TORCH = re.compile(r"(torch|triton|nvidia-|cuda-)")
OWN = "emoji"  # a distribution of this project
HEAD = "# Written by scripts/pin_hashes.py from pyproject.toml and constraints/ci.txt; see there how to use it\n"
OPTIONS = "--generate-hashes --universal --no-header --no-annotate --no-emit-index-url --no-emit-find-links"


def main() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    wanted = [f"--extra={name}" for name in extras if name != OWN]
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "hashes.txt"
        inputs = ["pyproject.toml", "-c", "constraints/ci.txt", "-o", str(written), "-q"]
        command = [sys.executable, "-m", "uv", "pip", "compile", *inputs, *wanted, *OPTIONS.split(), *sys.argv[1:]]
        subprocess.run(command, cwd=ROOT, check=True)
        text = written.read_text(encoding="utf-8")
    pins = [pin for pin in re.split(r"(?m)^(?=[\w.-]+==)", text) if pin.strip() and not OF_TORCH.match(pin)]
    unpinned = [pin.split()[0] for pin in pins if "--hash=sha256:" not in pin]
    if unpinned or "://" in "".join(pins):
        raise SystemExit(f"no hashes of {', '.join(unpinned) or 'some: an address stands in their place'}")
    TARGET.write_text(HEAD + "".join(pins), encoding="utf-8")
    print(f"{TARGET.relative_to(ROOT)}: {len(pins)} packages")


if __name__ == "__main__":
    main()
