"""The `versatile` command. Modules here import torch and its friends only inside commands, so that help is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 1 a comparison that failed (`replay`) or some of many files (`encode`), 2 a mistake in what was given:
    one line on stderr says what is allowed. The variable VERSATILE_DEBUG, set to anything, shows the traceback as well.
    """
    from versatile_diffusion.cli.app import app
    from versatile_diffusion.cli.console import one_line, quiet_libraries

    debug = bool(os.environ.get("VERSATILE_DEBUG"))
    if not debug:
        quiet_libraries()
    try:
        return app(arguments, prog_name="versatile", standalone_mode=False) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug or not (isinstance(error, ValueError | OSError) or hasattr(error, "format_message")):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
