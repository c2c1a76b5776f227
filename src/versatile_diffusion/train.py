"""`torchrun -m versatile_diffusion.train ...`: `versatile train ...` in each of several processes."""

import sys

from versatile_diffusion.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
