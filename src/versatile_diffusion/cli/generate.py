"""The commands that generate: one for each row in the table of tasks, all of them this one function."""

from __future__ import annotations

import inspect
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.console import note, note_made, show, show_json, show_json_line, tracked
from versatile_diffusion.cli.inputs import Input, inputs_of, one_input
from versatile_diffusion.cli.mistakes import one_line
from versatile_diffusion.cli.options import STDOUT, Options, parameters
from versatile_diffusion.flow import Condition
from versatile_diffusion.tasks import Task

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.cli.results import Place, Result
    from versatile_diffusion.sampling.output import Output

METAVARS = {"text": "TEXT", "image": "FILE"}
HELP = {
    "text": "The text that guides, or a .txt file with one on each line",
    "image": "The picture that guides",
}
"""How each modality is given on the command line; one from elsewhere is given as a file."""


def argument(modality: str, several: bool = False) -> Any:
    """The annotation of an argument that takes a value of a modality, or several."""
    more = "; several, folders of them, or - for stdin" if several else ""
    help = f"{HELP.get(modality, f'The {modality} that guides')}; or tokens (.safetensors){more}."
    metavar = METAVARS.get(modality, "FILE")
    return Annotated[list[str] if several else str, typer.Argument(metavar=metavar, help=help, show_default=False)]


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        conditions: what guides.
        inputs: what they were made of.
    """

    conditions: list[Condition]
    inputs: tuple[Input, ...] = ()

    @property
    def label(self) -> str:
        return self.inputs[-1].label

    def place(self, name: str, options: Options, many: bool) -> Place:
        """Where its results go; those of many are to be found again by what they were made of."""
        from versatile_diffusion.cli.results import Place

        if not many:
            return Place(options.out, name)
        asked = {"inputs": [one.label for one in self.inputs], **options.asked()}
        return Place(options.out, f"{self.inputs[-1].stem}.{name}", asked)

    def newer_than(self, file: Path) -> bool:
        """Whether something that it is made of has changed since."""
        files = (one.file for one in self.inputs if one.file and one.file.is_file())
        return any(one.stat().st_mtime > file.stat().st_mtime for one in files)


def task_command(task: Task) -> Callable[..., int]:
    """The command of a task: one argument for each of its contexts, and the options that belong to its flow. The last
    argument may be several inputs, each of which is a run of its own."""
    *first, last = task.flow.contexts

    def command(**named: Any) -> int:
        given = {m: named.pop(m) for m in task.flow.contexts}
        options = Options(**named)
        shared = {m: one_input(m, given[m]) for m in first}
        several = inputs_of(last, given[last])
        jobs = []
        for one in several.items:
            values = {**shared, last: one}
            jobs.append(Job([task_condition(m, v.value, options) for m, v in values.items()], tuple(values.values())))
        return produce(task.name, task.flow.data, jobs, options, several.many)

    keyword = inspect.Parameter.KEYWORD_ONLY
    arguments = [(m, argument(m)) for m in first] + [(last, argument(last, several=True))]
    taken = [inspect.Parameter(m, keyword, annotation=a) for m, a in arguments] + parameters(task.flow)
    command.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in taken}
    command.__doc__ = task.help
    return command


def task_condition(modality: str, value: Any, options: Options) -> Condition:
    """The condition that an argument stands for; mask and focus are those of the picture."""
    own: dict[str, Any] = {"mask": options.mask, "focus": options.focus} if modality == "image" else {}
    return Condition(modality, value, **own)


def produce(name: str, data: str, jobs: Sequence[Job], options: Options, many: bool = False) -> int:
    """Generate, save and print. What can be refused is refused before a model is loaded.

    Args:
        name: of the command; files are called after it.
        data: the modality to generate.
        jobs: what guides each run.
        options: all else.
        many: whether results are told of one by one, kept from an earlier call, and failures are counted, not raised.

    Returns:
        The exit code: 1 if some of many failed.
    """
    from versatile_diffusion.cli import colours
    from versatile_diffusion.cli.model import load
    from versatile_diffusion.cli.results import check_place
    from versatile_diffusion.modalities import MODALITIES
    from versatile_diffusion.sampling.conditions import GivenCondition
    from versatile_diffusion.sampling.request import Request

    Request(data, tuple(jobs[0].conditions), **options.arguments())
    check_place(options, data, many)
    colours.check(options.match_colours, jobs[0].conditions)
    if options.start is not None:
        MODALITIES[data].check(options.start)
    for condition in () if many else jobs[0].conditions:
        if isinstance(condition.value, str):
            GivenCondition.check(condition)
    run = Run(name, data, options, many, secrets.randbelow(2**32) if options.seed is None else options.seed)
    kept = run.kept(jobs) if many else {}
    pipe = None if len(kept) == len(jobs) else load(options.model, options.device)
    if not many:
        run.make(pipe, jobs[0])
        return 0
    if pipe is not None:
        pipe.set_progress_bar_config(disable=True)  # one bar is enough
    failed = 0
    for place, job in tracked(list(enumerate(jobs)), name):
        try:
            run.keep(job, kept[place]) if place in kept else run.make(pipe, job)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            failed += 1
            run.fail(job, error)
    return run.close(kept, failed)


@dataclass
class Run:
    """One call of a command, which makes one thing or many."""

    name: str
    data: str
    options: Options
    many: bool
    seed: int
    started: float = field(default_factory=time.perf_counter)
    made: int = 0

    def make(self, pipe: VersatileDiffusionPipeline | None, job: Job) -> None:
        """Generate, save, print."""
        from versatile_diffusion.cli import colours
        from versatile_diffusion.cli.results import KINDS

        assert pipe is not None, "all that is to be made needs a model"
        options, started = self.options, time.perf_counter()
        output = pipe.generate(self.data, job.conditions, seed=self.seed, **options.arguments())
        output = colours.matched(output, job.conditions, options.match_colours)
        seconds = time.perf_counter() - started
        result = KINDS[self.data].write(job.place(self.name, options, self.many), output, options.model)
        self.made += 1
        if options.json:
            told = {"seconds": round(seconds, 2), **result.as_json(), **details(output), "settings": output.settings}
            self._show_json(job, told)
        elif self.many:
            show_one_of_many(job.label, result, options)
        else:
            show_result(output, result, options)
            note_made(len(output), self.seed, seconds)

    def kept(self, jobs: Sequence[Job]) -> dict[int, Result]:
        """What an earlier call made, by the place of the job; nothing with --overwrite.

        Raises:
            ValueError: something is there that was made in another way.
        """
        from versatile_diffusion.cli.results import KINDS

        found = {}
        for k, job in enumerate(() if self.options.overwrite else jobs):
            place = job.place(self.name, self.options, many=True)
            earlier = KINDS[self.data].find(place, self.options.count)
            if earlier is None or job.newer_than(earlier[0].files[0]):
                continue
            if earlier[1] != place.asked:
                raise ValueError(f"{earlier[0].files[0]} is there, and {difference(earlier[1], place.asked)}; {REMEDY}")
            found[k] = earlier[0]
        return found

    def keep(self, job: Job, result: Result) -> None:
        """Tell programs of what was there already."""
        if self.options.json:
            self._show_json(job, {"kept": True, **result.as_json()})

    def fail(self, job: Job, error: Exception) -> None:
        """Tell of what could not be made."""
        if self.options.json:
            self._show_json(job, {"error": one_line(error)})
        note(f"failed: {one_line(error) if job.label in str(error) else f'{job.label}: {one_line(error)}'}")

    def close(self, kept: Mapping[int, Result], failed: int) -> int:
        """Sum up; the exit code."""
        seconds = time.perf_counter() - self.started
        again = f"; --seed {self.seed} makes them again" if self.made else ""
        note(f"{self.made} done in {seconds:.1f} s, {len(kept)} were there already, {failed} failed{again}")
        return int(failed > 0)

    def _show_json(self, job: Job, told: dict[str, Any]) -> None:
        if not self.many:
            return show_json({"task": self.name, **told})
        show_json_line({"task": self.name, "input": job.label, **told})


REMEDY = "give --overwrite to make it again, or another --out"


def difference(before: Any, now: Any) -> str:
    """In what two requests differ."""
    if not isinstance(before, Mapping):
        return "was made by another command"
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return f"was made with other settings ({', '.join(name.replace('_', '-') for name in names)})"


def show_result(output: Output, result: Result, options: Options) -> None:
    """For people: what one run made."""
    if options.out == STDOUT and not result.texts:
        return
    names = result.texts or result.files
    for row in output.ranking:
        show(f"{row.score:.3f}  {row.count} x  {names[row.items[0]]}")
    if result.texts and not output.ranking:
        show("\n".join(result.texts))
    if not result.texts:
        result.show(options.preview)
    if options.show_plan:
        show("\n".join(" ".join(map(str, choices)) for choices in output.layer_plan))
    if result.texts and len(output) > 1:
        told = ", ".join(f"{what} {value:.2f}" for what, value in details(output)["statistics"].items())
        note(f"variety of the words: {told}")


def show_one_of_many(label: str, result: Result, options: Options) -> None:
    """For people: each text after its input, or the pictures."""
    for text in result.texts:
        show(f"{label}\t{text}")
    if not result.texts:
        result.show(options.preview or False)


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
