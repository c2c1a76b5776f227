"""The commands that generate: one for each row in the table of tasks, all of them this one function."""

from __future__ import annotations

import inspect
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.console import note, show, show_json
from versatile_diffusion.cli.options import Options, parameters
from versatile_diffusion.flow import Condition
from versatile_diffusion.tasks import Task

if TYPE_CHECKING:
    from versatile_diffusion.sampling.output import Output

ARGUMENTS = {
    "text": Annotated[
        str,
        typer.Argument(metavar="TEXT", help="The text that guides; or its tokens (.safetensors).", show_default=False),
    ],
    "image": Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="The picture that guides; or its tokens (.safetensors).", show_default=False
        ),
    ],
}
"""How each modality is given on the command line; a modality from elsewhere is given as a file."""


def task_command(task: Task) -> Callable[..., None]:
    """The command of a task: one argument for each of its contexts, and the options that belong to its flow."""

    def command(**named: Any) -> None:
        inputs = {modality: named.pop(modality) for modality in task.flow.contexts}
        options = Options(**named)
        produce(task.name, task.flow.data, [task_condition(*one, options) for one in inputs.items()], options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    taken = [
        inspect.Parameter(m, keyword, annotation=ARGUMENTS.get(m, ARGUMENTS["image"])) for m in task.flow.contexts
    ] + parameters(task.flow)
    command.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in taken}
    return command


def task_condition(modality: str, value: str, options: Options) -> Condition:
    """The condition that an argument stands for; mask and focus are those of the picture."""
    own: dict[str, Any] = {"mask": options.mask, "focus": options.focus} if modality == "image" else {}
    return Condition(modality, given(value), **own)


def produce(name: str, data: str, conditions: list[Condition], options: Options) -> None:
    """Generate, save and print. What can be refused is refused before a model is loaded.

    Args:
        name: of the command; files are called after it.
        data: the modality to generate.
        conditions: what guides.
        options: all else.
    """
    from versatile_diffusion.cli import colours
    from versatile_diffusion.cli.files import check_folder
    from versatile_diffusion.cli.model import load
    from versatile_diffusion.cli.results import KINDS
    from versatile_diffusion.sampling.conditions import GivenCondition
    from versatile_diffusion.sampling.request import Request

    arguments = options.arguments()
    Request(data, tuple(conditions), **arguments)
    for condition in conditions:
        if isinstance(condition.value, str):
            GivenCondition.check(condition)
    colours.check(options.match_colours, conditions)
    kind = KINDS[data]
    folder = options.out or kind.folder
    if folder is not None:
        check_folder(folder)
    pipe = load(options.model)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    started = time.perf_counter()
    output = pipe.generate(data, conditions, seed=seed, **arguments)
    output = colours.matched(output, conditions, options.match_colours)
    seconds = time.perf_counter() - started
    result = kind.write(name, output, options.model, folder)
    if result.remark:
        note(result.remark)
    if options.json:
        told = {"task": name, "seconds": round(seconds, 2), **result.as_json(), **details(output)}
        return show_json(told | {"settings": output.settings})
    lines = [f"{row.score:.3f}  {row.count} x  {name}" for row, name in _named(output, result.texts or result.files)]
    for line in lines or result.texts or result.files:
        show(str(line))
    if result.grid:
        show(str(result.grid))
    if options.show_plan:
        show("\n".join(" ".join(map(str, choices)) for choices in output.layer_plan))
    if data == "text" and len(output) > 1:
        note("  ".join(f"{what} {value:.2f}" for what, value in details(output)["statistics"].items()))
    note(f"{len(output)} made in {seconds:.1f} s, {output.cost}; --seed {seed} makes them again")


def _named(output: Output, names: Any) -> list[tuple[Any, Any]]:
    return [(row, names[row.items[0]]) for row in output.ranking]


def details(output: Output) -> dict[str, Any]:
    """Plain JSON: what the output cost, and where there is such a thing its ranking, layer plan and statistics."""
    from versatile_diffusion.evaluation.text_statistics import statistics

    told: dict[str, Any] = {"cost": asdict(output.cost)}
    if output.ranking:
        rows = ((row.score, row.items, row.prompt) for row in output.ranking)
        told["ranking"] = [{"score": score, "items": list(items), "prompt": prompt} for score, items, prompt in rows]
    if output.layer_plan:
        told["layer_plan"] = [list(choices) for choices in output.layer_plan]
    if output.data == "text" and len(output) > 1:
        told["statistics"] = statistics(output.texts)
    return told


def given(value: str) -> Any:
    """What an argument stands for: the embeddings in a file of them, else the text or the file's name itself."""
    from versatile_diffusion.sampling.embeddings import SUFFIX, load_embeddings

    return load_embeddings(value) if value.endswith(SUFFIX) else value
