"""`python -m versatile_diffusion.training OBJECTIVE --settings emoji --data DIR --out RUN`."""

from __future__ import annotations

import argparse
from pathlib import Path

from versatile_diffusion.training.run import run


def main() -> None:
    """Trains, or goes on with, one objective."""
    parser = argparse.ArgumentParser(prog="python -m versatile_diffusion.training", description=main.__doc__)
    parser.add_argument("objective")
    parser.add_argument("--settings", default="emoji")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device")
    print(run(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
