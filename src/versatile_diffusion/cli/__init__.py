"""The `versatile` command. Modules here import torch only inside commands, so that --help is fast."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, one of `mistakes.EXIT_CODES`."""
    from versatile_diffusion.cli.app import app
    from versatile_diffusion.cli.io.mistakes import DEBUG, INTERRUPTED, exit_code, quiet_libraries

    if not os.environ.get(DEBUG):
        quiet_libraries()
    try:
        code = app()(arguments, prog_name="versatile", standalone_mode=False) or 0
        sys.stdout.flush()  # report a closed pipe here, not when Python exits
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        return exit_code(end.__context__)  # typer turns it into exit code 1
    except Exception as error:
        return exit_code(error)
    if code == INTERRUPTED:  # typer's code for Ctrl-C inside a command
        print("interrupted", file=sys.stderr)
    return code
