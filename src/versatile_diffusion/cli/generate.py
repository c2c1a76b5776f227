"""The commands that generate: one for each row in the table of tasks, all of them this one function."""

from __future__ import annotations

import inspect
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from versatile_diffusion.cli.console import note, show, show_json
from versatile_diffusion.tasks import Task

ARGUMENTS = {
    "text": Annotated[str, typer.Argument(metavar="TEXT", help="The text that guides.", show_default=False)],
    "image": Annotated[str, typer.Argument(metavar="FILE", help="The picture that guides.", show_default=False)],
}
"""How each modality is given on the command line; a modality from elsewhere is given as a file."""


@dataclass(frozen=True)
class Options:
    """Options of every command that generates. Those named as the pipeline's arguments are handed on to it."""

    model: Annotated[str, typer.Option(help="Name of a shipped model, a folder, or a hub id.")] = "emoji"
    count: Annotated[int, typer.Option(min=1, max=256, help="How many to make.")] = 1
    seed: Annotated[int | None, typer.Option(min=0, help="Item k has seed + k; drawn afresh if left out.")] = None
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Steps of the sampler.")] = None
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow what guides; 1: no more.")] = None
    scheduler: Annotated[str | None, typer.Option(help="ddim, dpm++ or unipc; the model's own if left out.")] = None
    style: Annotated[str | None, typer.Option(help="A style of the model, such as noto.")] = None
    negative_prompt: Annotated[str | None, typer.Option(help="A text to keep away from.")] = None
    out: Annotated[Path | None, typer.Option(help="Folder to write to; pictures go to ./out if left out.")] = None
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False

    def arguments(self) -> dict[str, Any]:
        """For `VersatileDiffusionPipeline.generate`, those that were given."""
        given = {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "scheduler": self.scheduler,
            "style": self.style,
            "negative_prompt": self.negative_prompt,
            "num_outputs": self.count,
        }
        return {name: value for name, value in given.items() if value is not None}


def task_command(task: Task) -> Callable[..., None]:
    """The command of a task: one argument for each of its contexts, and the common options (words only for texts)."""
    hints = get_type_hints(Options, include_extras=True)
    words = {"style", "negative_prompt"} if "text" not in task.flow.contexts else set()

    def command(**given: Any) -> None:
        inputs = {modality: given.pop(modality) for modality in task.flow.contexts}
        run(task, inputs, Options(**given))

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(m, keyword, annotation=ARGUMENTS.get(m, ARGUMENTS["image"])) for m in task.flow.contexts
    ] + [
        inspect.Parameter(option.name, keyword, default=option.default, annotation=hints[option.name])
        for option in fields(Options)
        if option.name not in words
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def run(task: Task, inputs: dict[str, str], options: Options) -> None:
    """Generate, save and print. What can be refused is refused before a model is loaded."""
    from versatile_diffusion.cli.files import check_folder
    from versatile_diffusion.cli.model import load
    from versatile_diffusion.cli.results import KINDS
    from versatile_diffusion.flow import Condition
    from versatile_diffusion.sampling.conditions import GivenCondition
    from versatile_diffusion.sampling.request import Request

    conditions = [Condition(modality, value) for modality, value in inputs.items()]
    Request(task.flow.data, tuple(conditions), **options.arguments())
    for condition in conditions:
        GivenCondition.check(condition)
    kind = KINDS[task.flow.data]
    folder = options.out or kind.folder
    if folder is not None:
        check_folder(folder)
    pipe = load(options.model)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    started = time.perf_counter()
    output = pipe.generate(task.flow.data, conditions, seed=seed, **options.arguments())
    seconds = time.perf_counter() - started
    result = kind.write(task.name, output, options.model, folder)
    if result.remark:
        note(result.remark)
    if options.json:
        return show_json(
            {"task": task.name, "seconds": round(seconds, 2), **result.as_json(), "settings": output.settings}
        )
    for line in result.texts or result.files:
        show(str(line))
    if result.grid:
        show(str(result.grid))
    note(f"{len(output)} made in {seconds:.1f} s; --seed {seed} makes them again")
