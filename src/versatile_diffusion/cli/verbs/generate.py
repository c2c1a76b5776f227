"""Generation commands: one function serves every task of the table."""

from __future__ import annotations

import inspect
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.choices import chosen
from versatile_diffusion.cli.io.console import note, note_made, show, show_json, show_json_line, with_progress
from versatile_diffusion.cli.io.inputs import Input, inputs_of, one_input
from versatile_diffusion.cli.io.mistakes import one_line
from versatile_diffusion.cli.options import STDOUT, CommandOptions, parameters
from versatile_diffusion.controls import REQUEST
from versatile_diffusion.files import write_whole
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.printable import shown
from versatile_diffusion.shipped import find_model, styles_of
from versatile_diffusion.tasks import Task

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.cli.io.results import Place, Written
    from versatile_diffusion.pipeline.output import Output


def argument(modality: str, several: bool = False) -> Any:
    """Return the annotation of an argument that takes one or several values of a modality."""
    more = "; several, folders, or - for stdin" if several else ""
    known = MODALITIES.get(modality)
    metavar, guides = (known.metavar, known.guides) if known else ("FILE", f"{modality.capitalize()} to condition on")
    help = f"{guides}; or context tokens (.safetensors){more}."
    return Annotated[list[str] if several else str, typer.Argument(metavar=metavar, help=help, show_default=False)]


@dataclass(frozen=True)
class PlannedRun:
    """One planned run.

    Args:
        conditions: the conditions.
        inputs: the inputs they come from.
    """

    conditions: list[Condition]
    inputs: tuple[Input, ...] = ()

    @property
    def label(self) -> str:
        return self.inputs[-1].label

    def place(self, name: str, options: CommandOptions, many: bool) -> Place:
        """Return the destination of the results; with `many`, a later call finds them by their inputs."""
        from versatile_diffusion.cli.io.results import Place

        if not many:
            return Place(options.out, name)
        asked = {"inputs": [one.label for one in self.inputs], **options.asked()}
        return Place(options.out, f"{self.inputs[-1].stem}.{name}", asked)

    def newer_than(self, file: Path) -> bool:
        """Return whether an input file has changed since `file` was written."""
        files = (one.file for one in self.inputs if one.file and one.file.is_file())
        return any(one.stat().st_mtime > file.stat().st_mtime for one in files)


def task_command(task: Task) -> Callable[..., int]:
    """Build the command of a task: an argument for each context, and the options of its flow. The last argument may be
    several inputs, each a run of its own."""
    *first, last = task.flow.contexts

    def command(**named: Any) -> int:
        given = {m: named.pop(m) for m in task.flow.contexts}
        options = CommandOptions.of(named)
        shared = {m: one_input(m, given[m]) for m in first}
        several = inputs_of(last, given[last])
        jobs = []
        for one in several.items:
            values = {**shared, last: one}
            jobs.append(
                PlannedRun([task_condition(m, v.value, options) for m, v in values.items()], tuple(values.values()))
            )
        return produce(task.name, task.flow.data, jobs, options, several.many, several.bad)

    keyword = inspect.Parameter.KEYWORD_ONLY
    arguments = [(m, argument(m)) for m in first] + [(last, argument(last, several=True))]
    taken = [inspect.Parameter(m, keyword, annotation=a) for m, a in arguments] + parameters(task.flow)
    command.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in taken}
    command.__doc__ = task.help
    return command


def task_condition(modality: str, value: Any, options: CommandOptions) -> Condition:
    """Return the condition that an argument gives."""
    return Condition(modality, value, **options.of_condition(modality))


OF_A_CONDITION = ("mask", "focus")
"""Options that are fields of a condition."""


def produce(
    name: str,
    data: str,
    jobs: Sequence[PlannedRun],
    options: CommandOptions,
    many: bool = False,
    bad: Sequence[Input] = (),
) -> int:
    """Generate, save and print. Invalid requests fail before a model is loaded.

    Args:
        name: name of the command and of its files.
        data: the modality to generate.
        jobs: the runs.
        options: all other options.
        many: report each result as a line, keep results of an earlier call, and count failures instead of raising.
        bad: unreadable inputs, counted as failures.

    Returns:
        The exit code: 1 if some runs failed.
    """
    check_names(options)
    note_texts(one for job in jobs for one in job.conditions)
    from versatile_diffusion.cli.io.model import find_device, load

    if options.device is not None:
        find_device(options.device)
    from versatile_diffusion.applications import colours
    from versatile_diffusion.cli.io.results import check_place
    from versatile_diffusion.pipeline.conditions import GivenCondition
    from versatile_diffusion.pipeline.request import Request

    Request(data, tuple(jobs[0].conditions), **options.arguments())
    check_place(options, data, many)
    colours.check(options.match_colours, jobs[0].conditions)
    if (start := options.given.get("start")) is not None:
        MODALITIES[data].check(start)
    for condition in () if many else jobs[0].conditions:
        if isinstance(condition.value, str):
            GivenCondition.check(condition)
    run = CommandRun(name, data, options, many, secrets.randbelow(2**32) if options.seed is None else options.seed)
    kept = run.find_earlier(jobs) if many else {}
    pipe = None if len(kept) == len(jobs) else load(options.model, options.device, options.dtype)
    if not many:
        run.make(pipe, jobs[0])
        return 0
    if pipe is not None:
        pipe.set_progress_bar_config(disable=True)  # the outer bar is enough
    for one in bad:
        run.fail(PlannedRun([], (one,)), ValueError(one.problem))
    failed = len(bad)
    for place, job in with_progress(list(enumerate(jobs)), name):
        try:
            run.keep(job, kept[place]) if place in kept else run.make(pipe, job)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            failed += 1
            run.fail(job, error)
    return run.close(kept, failed)


def check_names(options: CommandOptions) -> None:
    """ValueError if there is no model, style, sampler or mixing level of a name: found before torch is imported, which
    takes seconds."""
    find_model(options.model)
    for name in ("scheduler", "mixing"):
        if name in options.given:
            chosen(name, options.given[name], REQUEST[name].choices)
    known = styles_of(options.model)
    if known and "style" in options.given:
        chosen("style", options.given["style"], known)


LIKE_A_FILE = re.compile(r"\S*\w\.[A-Za-z]\w{1,10}")


def note_texts(conditions: Iterable[Condition]) -> None:
    """A remark where a text is empty, or looks like the name of a file."""
    typed = (one.value for one in conditions if isinstance(one.value, str) and MODALITIES[one.modality].plain)
    for text in dict.fromkeys(typed):
        if not text.strip():
            note("the text is empty: the result is unconditional")
        elif os.path.isfile(text):
            note(f"{shown(text)} is a file; its name is used as the prompt")
        elif LIKE_A_FILE.fullmatch(text):
            note(f"{shown(text)} looks like a file but does not exist; it is used as the prompt")


def note_unknown(pipe: VersatileDiffusionPipeline, conditions: Sequence[Condition]) -> None:
    """Warn if a prompt names nothing that the model was trained on."""
    from versatile_diffusion.pipeline.vocabulary import names_none

    known = pipe.config.vocabulary
    for condition in conditions:
        texts = [condition.value] if isinstance(condition.value, str) else condition.value
        for text in texts if MODALITIES[condition.modality].plain and isinstance(texts, list) else ():
            if isinstance(text, str) and text.strip() and names_none(text, known, pipe.config.styles.values()):
                note(
                    f"{shown(text)} names none of the {len(known)} concepts {pipe.model_name} was trained on; "
                    "`versatile describe --vocabulary` lists them"
                )


@dataclass
class CommandRun:
    """State of one command call, with one run or many."""

    name: str
    data: str
    options: CommandOptions
    many: bool
    seed: int
    started: float = field(default_factory=time.perf_counter)
    made: int = 0

    def make(self, pipe: VersatileDiffusionPipeline | None, job: PlannedRun) -> None:
        """Generate, save, print."""
        from versatile_diffusion.applications import colours
        from versatile_diffusion.cli.io.results import write

        assert pipe is not None, "runs that are not kept need a model"
        options, started = self.options, time.perf_counter()
        note_unknown(pipe, job.conditions)
        output = pipe.generate(self.data, job.conditions, seed=self.seed, **options.arguments())
        output = colours.match_to_input(output, job.conditions, options.match_colours)
        seconds = time.perf_counter() - started
        if self.many and (theirs := self._earlier(job)) is not None:
            note(f"{theirs.files[0]} was written by another process meanwhile; keeping it")
            return self.keep(job, theirs)
        result = write(job.place(self.name, options, self.many), output, options.model)
        self.made += 1
        if options.captions:
            self._caption(job, output)
        if options.json:
            told = {"seconds": round(seconds, 2), **result.as_json(), **details(output), "settings": output.settings}
            self._show_json(job, told)
        elif self.many:
            show_one_of_many(job.label, result, options)
        else:
            show_result(output, result, options)
            note_made(len(output), self.seed, seconds)

    def _caption(self, job: PlannedRun, output: Output) -> None:
        """Write the first text beside its input file, as training reads it."""
        source = job.inputs[-1].file
        if source is None:
            return note("--captions writes beside files, and this input is none")
        target = source.with_suffix(".txt")
        if target.exists() and not self.options.overwrite:
            return note(f"{target} exists and is kept; --overwrite replaces it")
        line = MODALITIES[output.data].line(output.values[0]) + "\n"
        write_whole(target, lambda draft: draft.write_text(line, encoding="utf-8"), contested=True)
        return None

    def find_earlier(self, jobs: Sequence[PlannedRun]) -> dict[int, Written]:
        """Find the results of an earlier call by job index; none with --overwrite.

        Raises:
            ValueError: a result exists that was generated with other settings.
        """
        found = ((k, self._earlier(job)) for k, job in enumerate(jobs))
        return {k: result for k, result in found if result is not None}

    def _earlier(self, job: PlannedRun) -> Written | None:
        from versatile_diffusion.cli.io.results import find

        place = job.place(self.name, self.options, many=True)
        earlier = None if self.options.overwrite else find(place, self.data, self.options.count)
        if earlier is None or job.newer_than(earlier[0].files[0]):
            return None
        if earlier[1] != place.asked:
            raise ValueError(f"{earlier[0].files[0]} exists, but {difference(earlier[1], place.asked)}; {REMEDY}")
        return earlier[0]

    def keep(self, job: PlannedRun, result: Written) -> None:
        """Report a kept result in JSON output."""
        if self.options.json:
            self._show_json(job, {"kept": True, **result.as_json()})

    def fail(self, job: PlannedRun, error: Exception) -> None:
        """Report a failed run."""
        if self.options.json:
            self._show_json(job, {"error": one_line(error)})
        note(f"failed: {one_line(error) if job.label in str(error) else f'{job.label}: {one_line(error)}'}")

    def close(self, kept: Mapping[int, Written], failed: int) -> int:
        """Print the summary; return the exit code."""
        seconds = time.perf_counter() - self.started
        again = f"; --seed {self.seed} reproduces them" if self.made else ""
        note(f"{self.made} done in {seconds:.1f} s, {len(kept)} already existed, {failed} failed{again}")
        return int(failed > 0)

    def _show_json(self, job: PlannedRun, told: dict[str, Any]) -> None:
        if not self.many:
            return show_json({"task": self.name, **told})
        show_json_line({"task": self.name, "input": job.label, **told})


REMEDY = "use --overwrite to regenerate it, or another --out"


def difference(before: Any, now: Any) -> str:
    """Describe how two requests differ."""
    if not isinstance(before, Mapping):
        return "was generated by another command"
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return f"was generated with other settings ({', '.join(name.replace('_', '-') for name in names)})"


def show_result(output: Output, result: Written, options: CommandOptions) -> None:
    """Print the results of one run."""
    if options.out == STDOUT and not result.texts:
        return
    names = result.texts or result.files
    for row in output.ranking:
        show(f"{row.score:.3f}  {row.count} x  {names[row.items[0]]}")
    if result.texts and not output.ranking:
        for text in result.texts:
            show(text)
    if not result.texts:
        result.show(options.preview)
    if options.show_plan:
        for choices in output.layer_plan:
            show(" ".join(map(str, choices)))
    if "statistics" in details(output) and result.texts:
        told = ", ".join(f"{what} {value:.2f}" for what, value in details(output)["statistics"].items())
        note(f"text diversity: {told}")


def show_one_of_many(label: str, result: Written, options: CommandOptions) -> None:
    """Print each text after its input, or the image files."""
    for text in result.texts:
        show(f"{label}\t{text}")
    if not result.texts:
        result.show(options.preview or False)


def details(output: Output) -> dict[str, Any]:
    """Return the output's cost and, if present, its ranking, layer plan and text statistics, as plain JSON."""
    from versatile_diffusion.evaluation.text_statistics import statistics

    told: dict[str, Any] = {"cost": asdict(output.cost)}
    if output.ranking:
        rows = ((row.score, row.items, row.prompt) for row in output.ranking)
        told["ranking"] = [{"score": score, "items": list(items), "prompt": prompt} for score, items, prompt in rows]
    if output.layer_plan:
        told["layer_plan"] = [list(choices) for choices in output.layer_plan]
    if MODALITIES[output.data].plain and len(output) > 1:
        told["statistics"] = statistics(output.values)
    return told
