"""The `versatile` command: its verbs and the help shown without one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from versatile_diffusion.cli.io.mistakes import DEBUG, EXIT_CODES
from versatile_diffusion.cli.table import late, verbs
from versatile_diffusion.version import __version__

NOTES = f"""
\b
Start with:
  versatile text-to-image "a red apple"
  versatile text-to-image --help

Results go to stdout (--json for scripts), messages to stderr. As an input, - means stdin; `--out -` means stdout.

\b
Exit codes:
{chr(10).join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())}

Set {DEBUG}=1 in the environment to see the traceback of an error.
"""

HELP_NAMES = ["-h", "--help"]


def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """One diffusion model for images and text: text-to-image, captioning, and variations of both."""
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def app() -> Any:
    """Return the command with all verbs; a verb's module is imported when it is called."""
    frame = typer.Typer(
        name="versatile",
        epilog=NOTES,
        context_settings={"help_option_names": HELP_NAMES},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    frame.callback(invoke_without_command=True)(root)
    group: Any = typer.main.get_command(frame)
    for verb in verbs().values():
        group.add_command(late(verb))
    return group
