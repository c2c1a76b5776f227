"""The verbs of the command line: where each lives, and examples of it. Those that generate come from the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from versatile_diffusion.tasks import TASKS, Task

if TYPE_CHECKING:
    from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class Verb:
    """One verb.

    Args:
        name: as it is typed.
        summary: one line for the list of verbs.
        load: imports and returns the function behind it; None for a verb that has `verbs` of its own.
        examples: command lines that work, one after the other, with files of these names.
        verbs: those below it.
    """

    name: str
    summary: str
    load: Callable[[], Callable[..., Any]] | None
    examples: tuple[str, ...] = ()
    verbs: tuple[Verb, ...] = ()


def _verb(name: str, summary: str, *examples: str, home: str | None = None) -> Verb:
    return Verb(name, summary, partial(_function, home or name), examples)


def _function(home: str) -> Callable[..., Any]:
    """The function of a module of the same name."""
    return getattr(import_module(f"versatile_diffusion.cli.{home}"), home.removeprefix("data_"))


APPLICATIONS = (
    _verb(
        "blend",
        "Any number of texts and pictures together.",
        'versatile blend --text "a red apple@0.4" --image apple.png@0.6',
        "versatile blend --image apple.png@1,region=left --image car.png@1,region=right --count 4",
        'versatile blend --text "a car@1,scale=9,end=0.5" --image apple.png --to text',
    ),
    _verb(
        "disentangle",
        "Variations that keep what a picture shows, or its style.",
        "versatile disentangle apple.png",
        "versatile disentangle apple.png --focus 0.2 --count 4",
        "versatile disentangle apple.png --style-of car.png",
    ),
    _verb(
        "edit",
        "A picture changed by words.",
        "versatile edit apple.png",
        "versatile edit apple.png --remove red --add green",
        'versatile edit apple.png --caption "a green apple" --count 4',
        "versatile image-variation apple.png --out - | versatile edit - --add green",
    ),
    _verb(
        "joint",
        "A picture and its caption, made together.",
        "versatile joint --count 4",
        'versatile joint --text "a red apple" --count 4',
        "versatile joint --image apple.png --caption-weight 0.5",
    ),
    _verb(
        "sweep",
        "A task over one setting or two, as a labelled sheet.",
        'versatile sweep text-to-image "a red apple" --over guidance_scale=1:12:2',
        'versatile sweep text-to-image "a red apple" --over seed=0:3 --over style=noto,twemoji',
        "versatile sweep image-variation apple.png --over image.focus=0,0.5,1 --set steps=20",
    ),
)
FILES = (
    _verb(
        "encode",
        "Pictures and texts to context tokens or latents.",
        "versatile encode photos/ prompts.txt --out tokens/",
        "versatile encode photos/ --as latent --out latents/",
    ),
    _verb(
        "decode",
        "Latents and context tokens to pictures and texts.",
        "versatile encode photos/ --as latent --out latents/",
        "versatile decode latents/ --out pictures-again/",
        "versatile encode photos/ --out tokens/",
        "versatile decode tokens/ --task image-to-text --out captions/",
    ),
    _verb(
        "replay",
        "A saved output made again, and compared.",
        'versatile text-to-image "a red apple" --out out/',
        "versatile replay out/text-to-image-0001.png",
    ),
)
MODELS = (
    _verb(
        "describe",
        "What a model holds.",
        "versatile describe",
        "versatile describe --model emoji --json | jq .parameters",
    ),
    _verb(
        "verify",
        "Whether files hold what a model needs.",
        "versatile convert emoji my-model/",
        "versatile verify my-model/",
    ),
    _verb(
        "convert",
        "A model from any layout to another.",
        "versatile convert emoji half-model/ --dtype float16",
    ),
    _verb(
        "train",
        "A part of a model, on the emoji set or your own pictures.",
        "versatile train --from emoji --data pictures/ --out runs/mine --minutes 10",
        "versatile train --export runs/mine --to my-export/",
        "versatile train image-codec --data data/emoji --out runs/image-codec --minutes 10",
    ),
    _verb(
        "evaluate",
        "How good a model is, under a protocol.",
        "versatile evaluate --data data/emoji --count 16 --out evaluation/",
        "versatile evaluate --compare evaluation/results.json",
    ),
    Verb(
        "data",
        "Build data sets, and encode them for training.",
        None,
        verbs=(
            _verb(
                "emoji",
                "The emoji set, from public npm packages.",
                "versatile data emoji --out data/emoji",
                home="data_emoji",
            ),
            _verb(
                "encode",
                "Pictures with captions, encoded once for all trainings.",
                "versatile data encode pictures/ --out encoded/",
                home="data_encode",
            ),
        ),
    ),
)
HELP = (
    _verb(
        "ui",
        "The studio: every task in a browser.",
        "versatile ui",
        "versatile ui --host 0.0.0.0 --port 8000 --auth ada:secret",
    ),
    _verb("demo", "All four flows of a model, on a page of pictures.", "versatile demo --out out/demo"),
    _verb(
        "doctor",
        "Whether all that is needed is here, and works.",
        "versatile doctor",
        "versatile doctor --json | jq .problems",
    ),
)


def verbs() -> dict[str, Verb]:
    """All verbs by name: one for each task that there is now, and the others."""
    tasks = (Verb(task.name, task.help, partial(_task_command, task), task_examples(task)) for task in TASKS.values())
    return {verb.name: verb for verb in (*tasks, *APPLICATIONS, *FILES, *MODELS, *HELP)}


def every_verb(those: tuple[Verb, ...] | None = None, path: str = "versatile") -> Iterator[tuple[str, Verb]]:
    """Each verb with the words that call it, those below others too."""
    for verb in tuple(verbs().values()) if those is None else those:
        yield f"{path} {verb.name}", verb
        yield from every_verb(verb.verbs, f"{path} {verb.name}")


def _task_command(task: Task) -> Callable[..., Any]:
    from versatile_diffusion.cli.generate import task_command

    return task_command(task)


ONE = {"text": '"a red apple"'}
MANY = {"image": "photos/", "text": "- < prompts.txt"}
"""An input of each modality as examples name it, and several; the inputs of other modalities are files."""


def task_examples(task: Task) -> tuple[str, ...]:
    """Command lines of a task: one input, several outputs, several inputs, and a pipe."""
    *first, last = task.flow.contexts
    given = " ".join(ONE.get(modality, "apple.png") for modality in task.flow.contexts)
    most = " ".join([*(ONE.get(modality, "apple.png") for modality in first), MANY.get(last, "photos/")])
    call, result = f"versatile {task.name}", {"text": "texts"}.get(task.flow.data, "files")
    lines = (
        f"{call} {given}",
        f"{call} {given} --count 4 --seed 0 --out out/",
        f"{call} {most.partition(' <')[0]} --out out/{''.join(most.partition(' <')[1:])}",
        f"{call} {given} --json | jq '.{result}'",
    )
    return lines if result == "texts" else (*lines, f"{call} {given} --out - > picture.png")


def late(verb: Verb) -> TyperCommand:
    """The verb as typer's command, of which no more is loaded than its name and summary until it is called."""
    from typer.core import TyperCommand

    class Late(TyperCommand):
        def make_context(self, *given: Any, **more: Any) -> Any:
            return command(verb).make_context(*given, **more)

    return Late(verb.name, short_help=verb.summary)


def command(verb: Verb) -> TyperCommand | TyperGroup:
    """The verb as typer's command."""
    import typer
    from typer.core import TyperGroup

    if verb.load is None:
        below: Any = {one.name: late(one) for one in verb.verbs}
        return TyperGroup(
            name=verb.name, commands=below, help=verb.summary, no_args_is_help=True, rich_markup_mode=None
        )
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    function = verb.load()
    app.command(verb.name, help=function.__doc__ or verb.summary, epilog=shown(verb.examples))(function)
    made: Any = typer.main.get_command(app)
    for parameter in made.params:
        _in_plain_words(parameter, get_type_hints(function).get(parameter.name))
    return made


METAVARS = {int: "X", float: "X", str: "TEXT", Path: "PATH"}
"""What stands for a value in a help text, by its type, where nothing better is said."""


def _in_plain_words(parameter: Any, hint: Any) -> None:
    """Keeps names of Python's types out of a help text."""
    kind = next(
        (kind for kind in (hint, *get_args(hint), *sum(map(get_args, get_args(hint)), ())) if kind in METAVARS), None
    )
    if parameter.param_type_name == "argument":
        parameter.display_type_rich = lambda ctx: None
        parameter.metavar = parameter.metavar or parameter.name.upper()
    elif parameter.metavar is None and kind is not None:
        parameter.metavar = METAVARS[kind]


def shown(examples: tuple[str, ...]) -> str:
    """Examples as the end of a help text, each on a line of its own."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
