"""`torchrun -m versatile_diffusion.train ...`: `versatile train ...` in each of several processes."""

import sys

from versatile_diffusion.training.engine.launch import end_with_launcher

if __name__ == "__main__":
    end_with_launcher()  # before all else, which takes long to import

    from versatile_diffusion.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
