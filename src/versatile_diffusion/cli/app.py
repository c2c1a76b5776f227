"""All commands of `versatile`; those that generate come from the table of tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from versatile_diffusion.cli import data
from versatile_diffusion.cli.blend import blend
from versatile_diffusion.cli.convert import convert
from versatile_diffusion.cli.decode import decode
from versatile_diffusion.cli.demo import demo
from versatile_diffusion.cli.describe import describe
from versatile_diffusion.cli.disentangle import disentangle
from versatile_diffusion.cli.edit import edit
from versatile_diffusion.cli.encode import encode
from versatile_diffusion.cli.evaluate import evaluate
from versatile_diffusion.cli.generate import task_command
from versatile_diffusion.cli.replay import replay
from versatile_diffusion.cli.sweep import sweep
from versatile_diffusion.cli.train import train
from versatile_diffusion.cli.verify import verify
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.version import __version__

app = typer.Typer(
    name="versatile",
    help="One diffusion model for text and pictures: each made from the other, and variations of both.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for task in TASKS.values():
    app.command(task.name, help=task.help)(task_command(task))
for command in (
    blend,
    disentangle,
    edit,
    sweep,
    encode,
    decode,
    convert,
    verify,
    describe,
    replay,
    train,
    evaluate,
    demo,
):
    app.command()(command)
app.add_typer(data.app, name="data", help="Build data sets.")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Without a command: the version or the help."""
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
