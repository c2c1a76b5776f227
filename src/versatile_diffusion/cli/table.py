"""The verbs of the command line: module and examples of each. Generation verbs come from the task table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from importlib import import_module
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.tasks import TASKS, Task

if TYPE_CHECKING:
    from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Args:
        name: as typed.
        summary: one line for the overview.
        load: imports and returns the function; None for a group of `verbs`.
        examples: working command lines, in order, given files of these names.
        verbs: verbs of a group.
    """

    name: str
    summary: str
    load: Callable[[], Callable[..., Any]] | None
    examples: tuple[str, ...] = ()
    verbs: tuple[Verb, ...] = ()


def _verb(name: str, summary: str, *examples: str, home: str | None = None) -> Verb:
    return Verb(name, summary, partial(_function, home or name), examples)


def _function(home: str) -> Callable[..., Any]:
    """Return the function named like its module, or the one its `command` builds for the current modalities."""
    module = import_module(f"versatile_diffusion.cli.verbs.{home}")
    make = getattr(module, "command", None)
    return make() if make else getattr(module, home.removeprefix("data_"))


APPLICATIONS = (
    _verb(
        "blend",
        "Generate from any number of prompts and images together.",
        'versatile blend --text "a red apple@0.4" --image apple.png@0.6',
        "versatile blend --image apple.png@1,region=left --image car.png@1,region=right --count 4",
        'versatile blend --text "a car@1,scale=9,end=0.5" --image apple.png --to text',
    ),
    _verb(
        "disentangle",
        "Vary an image, keeping its content or its style.",
        "versatile disentangle apple.png",
        "versatile disentangle apple.png --focus 0.2 --count 4",
        "versatile disentangle apple.png --style-of car.png",
    ),
    _verb(
        "edit",
        "Edit an image with words.",
        "versatile edit apple.png",
        "versatile edit apple.png --remove red --add green",
        'versatile edit apple.png --caption "a green apple" --count 4',
        "versatile image-variation apple.png --out - | versatile edit - --add green",
    ),
    _verb(
        "joint",
        "Generate an image and its caption together.",
        "versatile joint --count 4",
        'versatile joint --text "a red apple" --count 4',
        "versatile joint --image apple.png --caption-weight 0.5",
    ),
    _verb(
        "generate-many",
        "Generate from every row of a table, into shards.",
        "versatile generate-many --input prompts.csv --out many/ --steps 20",
        "versatile generate-many --input photos.jsonl --task image-to-text --format parquet --out captions/",
        home="generate_many",
    ),
    _verb(
        "sweep",
        "Sweep one or two settings into a labelled sheet.",
        'versatile sweep text-to-image "a red apple" --over guidance_scale=1:12:2',
        'versatile sweep text-to-image "a red apple" --over seed=0:3 --over style=noto,twemoji',
        "versatile sweep image-variation apple.png --over image.focus=0,0.5,1 --set steps=20",
    ),
)
FILES = (
    _verb(
        "encode",
        "Encode images and texts to context tokens or latents.",
        "versatile encode photos/ prompts.txt --out tokens/",
        "versatile encode photos/ --as latent --out latents/",
    ),
    _verb(
        "decode",
        "Decode latents, or generate from context tokens.",
        "versatile encode photos/ --as latent --out latents/",
        "versatile decode latents/ --out pictures-again/",
        "versatile encode photos/ --out tokens/",
        "versatile decode tokens/ --task image-to-text --out captions/",
    ),
    _verb(
        "replay",
        "Reproduce a saved output and compare.",
        'versatile text-to-image "a red apple" --out out/',
        "versatile replay out/text-to-image-0001.png",
    ),
)
MODELS = (
    _verb(
        "describe",
        "Describe a model: tasks, streams, parameters, styles.",
        "versatile describe",
        "versatile describe --model emoji --json | jq .parameters",
    ),
    _verb(
        "verify",
        "Verify model weights.",
        "versatile convert emoji my-model/",
        "versatile verify my-model/",
    ),
    _verb(
        "convert",
        "Convert a model to another layout.",
        "versatile convert emoji half-model/ --dtype float16",
    ),
    _verb(
        "upload",
        "Upload a model to the Hugging Face hub.",
        'versatile upload emoji --to ada/emoji --license apache-2.0 --prompt "a red apple" --dry-run',
    ),
    _verb(
        "train",
        "Train a model on the emoji set or your own data.",
        "versatile train --from emoji --data pictures/ --out runs/mine --minutes 10",
        "versatile train --export runs/mine --to my-export/",
        "versatile train image-codec --data data/emoji --out runs/image-codec --minutes 10",
    ),
    _verb(
        "evaluate",
        "Evaluate a model under a fixed protocol.",
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
                "Build the emoji set from public npm packages.",
                "versatile data emoji --out data/emoji",
                home="data_emoji",
            ),
            _verb(
                "speech",
                "Build the speech set: words spoken by espeak-ng.",
                "versatile data speech --out data/speech",
                home="data_speech",
            ),
            _verb(
                "select",
                "Filter LAION-style metadata by the paper's rules.",
                "versatile data select laion/ --out selected/",
                "versatile data select 'laion/part-*.parquet' --out selected-en/ --language en --unique hash",
                home="data_select",
            ),
            _verb(
                "fetch",
                "Download selected images as WebDataset shards.",
                "versatile data select laion/ --out selected/",
                "versatile data fetch selected/ --out shards/ --per-host 2",
                home="data_fetch",
            ),
            _verb(
                "encode",
                "Encode images with captions once, for all training runs.",
                "versatile data encode pictures/ --out encoded/",
                home="data_encode",
            ),
        ),
    ),
)
HELP = (
    _verb(
        "fetch",
        "Download the emoji model, if pip did not install it.",
        "versatile fetch emoji --from models/emoji",
    ),
    _verb(
        "ui",
        "Open the studio: every task in a browser.",
        "versatile ui",
        "versatile ui --host 0.0.0.0 --port 8000 --auth-file logins.txt",
    ),
    _verb(
        "serve",
        "Serve a model over HTTP, for OpenAI clients.",
        "versatile serve",
        "versatile serve --host 0.0.0.0 --port 8000 --api-key-file keys.txt",
    ),
    _verb("demo", "Run all flows and write a page of results.", "versatile demo --out out/demo"),
    _verb(
        "doctor",
        "Check the installation.",
        "versatile doctor",
        "versatile doctor --json | jq .problems",
    ),
)


def verbs() -> dict[str, Verb]:
    """Return all verbs by name: one per task in the table, and the others."""
    tasks = (Verb(task.name, task.help, partial(_task_command, task), task_examples(task)) for task in TASKS.values())
    return {verb.name: verb for verb in (*tasks, *APPLICATIONS, *FILES, *MODELS, *HELP)}


def every_verb(those: tuple[Verb, ...] | None = None, path: str = "versatile") -> Iterator[tuple[str, Verb]]:
    """Yield each verb, those of groups included, with its command line."""
    for verb in tuple(verbs().values()) if those is None else those:
        yield f"{path} {verb.name}", verb
        yield from every_verb(verb.verbs, f"{path} {verb.name}")


def _task_command(task: Task) -> Callable[..., Any]:
    from versatile_diffusion.cli.verbs.generate import task_command

    return task_command(task)


def task_examples(task: Task) -> tuple[str, ...]:
    """Return example command lines of a task: one input, several outputs, several inputs, and a pipe."""
    *first, last = task.flow.contexts
    made = MODALITIES[task.flow.data]
    given = " ".join(MODALITIES[modality].example for modality in task.flow.contexts)
    most = " ".join([*(MODALITIES[modality].example for modality in first), MODALITIES[last].several])
    call, result = f"versatile {task.name}", "texts" if made.together else "files"
    lines = (
        f"{call} {given}",
        f"{call} {given} --count 4 --seed 0 --out out/",
        f"{call} {most.partition(' <')[0]} --out out/{''.join(most.partition(' <')[1:])}",
        f"{call} {given} --json | jq '.{result}'",
    )
    return lines if made.together else (*lines, f"{call} {given} --out - > {made.noun}{made.suffix}")


def late(verb: Verb) -> TyperCommand:
    """Return the verb as a typer command that loads only its name and summary until it is called."""
    from typer.core import TyperCommand

    class LateCommand(TyperCommand):
        def make_context(self, *given: Any, **more: Any) -> Any:
            return command(verb).make_context(*given, **more)

    return LateCommand(verb.name, short_help=verb.summary)


def command(verb: Verb) -> TyperCommand | TyperGroup:
    """Return the verb as a typer command."""
    import typer
    from typer.core import TyperGroup

    if verb.load is None:
        below: Any = {one.name: late(one) for one in verb.verbs}
        return TyperGroup(
            name=verb.name, commands=below, help=verb.summary, no_args_is_help=True, rich_markup_mode=None
        )
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    function = with_revision(verb.load())
    app.command(verb.name, help=function.__doc__ or verb.summary, epilog=format_examples(verb.examples))(function)
    made: Any = typer.main.get_command(app)
    for parameter in made.params:
        _in_plain_words(parameter, get_type_hints(function).get(parameter.name))
    return made


MODELS_GIVEN = ("model", "source", "start")
"""Possible names of a verb's model parameter, in order of preference."""


def with_revision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--revision` to a verb that takes a model; it becomes part of the model's name."""
    taken = list(signature(function).parameters.values())
    names = [one.name for one in taken]
    place = next((names.index(name) for name in MODELS_GIVEN if name in names), None)
    if place is None:
        return function
    from versatile_diffusion.cli.options import Revision

    @wraps(function)
    def run(*, revision: str | None, **named: Any) -> Any:
        if revision is not None:
            from versatile_diffusion.pipeline.models import pin_revision

            if (model := named[names[place]]) is None:
                raise ValueError(f"--revision {revision} needs a model name")
            named[names[place]] = pin_revision(model, revision)
        return function(**named)

    added = Parameter("revision", Parameter.KEYWORD_ONLY, default=None, annotation=Revision)
    hints = get_type_hints(function, include_extras=True)
    every = [one.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[one.name]) for one in taken]
    run.__signature__ = Signature([*every[: place + 1], added, *every[place + 1 :]])  # type: ignore[attr-defined]
    run.__annotations__ = hints | {"revision": Revision}
    return run


METAVARS = {int: "X", float: "X", str: "TEXT", Path: "PATH"}
"""Default placeholder of a value in help texts, by type."""


def _in_plain_words(parameter: Any, hint: Any) -> None:
    """Replace Python type names in help texts."""
    kind = next(
        (kind for kind in (hint, *get_args(hint), *sum(map(get_args, get_args(hint)), ())) if kind in METAVARS), None
    )
    if parameter.param_type_name == "argument":
        parameter.display_type_rich = lambda ctx: None
        parameter.metavar = parameter.metavar or parameter.name.upper()
    elif parameter.metavar is None and kind is not None:
        parameter.metavar = METAVARS[kind]


def format_examples(examples: tuple[str, ...]) -> str:
    """Format examples for the end of a help text, one per line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
