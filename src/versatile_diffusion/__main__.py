"""`python -m versatile_diffusion` is the `versatile` command."""

import sys

from versatile_diffusion.cli import main

sys.exit(main())
