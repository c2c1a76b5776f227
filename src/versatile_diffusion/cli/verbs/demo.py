"""`versatile demo`: run every flow of a model, with a terminal report and a web page."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.io.console import note, show, show_json, stdout
from versatile_diffusion.cli.options import Device, Json, Model, Steps
from versatile_diffusion.cli.verbs.demo_page import Row, Section, write_page
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.modality import UPLOADED

if TYPE_CHECKING:
    from PIL import Image

    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.pipeline.output import Output
    from versatile_diffusion.tasks import Task

PROMPTS = ("a red apple", "a crying face", "a cat face", "a cactus", "a red heart", "a dog face")
STYLES = ("noto", "fluent-3d", "twemoji", "openmoji-black")
TEXTS = ("a red heart", "a dog, 3d emoji", "a snowman, black line drawing", "a happy face")
CANDIDATES = 4
VARIATIONS = 4
CAPTIONS = 3
CAPTION_CANDIDATES = 8
SEED = 0
INPUTS = 4
PNG = ".png"


def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("out/demo"),
    model: Model = "emoji",
    images: Annotated[Path | None, typer.Option(help="Folder of .png images to vary and caption.")] = None,
    steps: Steps = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Run all flows of a model with fixed seeds; write the results and a page that shows or plays them."""
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.cli.io.model import load

    check_folder(out)
    samples, others = sample_images(model, images), other_samples(model)
    if (out / "index.html").exists():
        note(f"{out} contains an earlier demo; overwriting it")
    out.mkdir(parents=True, exist_ok=True)
    pipe = load(model, device)
    started = time.perf_counter()
    sections = []
    for section in Demo(pipe, model, out, steps).sections(samples, others):
        sections.append(section)
        if not json:
            print_section(section)
    write_page(page := out / "index.html", model, sections)
    seconds = time.perf_counter() - started
    if json:
        return show_json({"page": str(page), "seconds": round(seconds, 2), "sections": [asdict(s) for s in sections]})
    show("")
    show(f"{seconds:.0f} s in total; open {page}")


def sample_images(model: str, folder: Path | None) -> list[Path]:
    """Return the images in `folder`, or the sample images shipped with the model (none for other models)."""
    from versatile_diffusion.pipeline.models import find_model
    from versatile_diffusion.shipped import samples_of

    find_model(model)  # an unknown one is told first
    found = [file for file in (samples_of(model) if folder is None else sorted(folder.glob("*"))) if file.suffix == PNG]
    if folder is not None and not found:
        raise ValueError(f"--images is {folder}, which contains no .png file")
    return found


def other_samples(model: str) -> list[Path]:
    """Return the samples shipped with the model that are no images: those of modalities that are neither typed nor
    painted."""
    from versatile_diffusion.shipped import samples_of

    return [
        path for path in samples_of(model) if (known := MODALITIES.of_suffix(path.suffix)) and known.form in UPLOADED
    ]


@dataclass(frozen=True)
class FlowInput:
    """An input of a flow. Args: title: what it is. value: as the pipeline takes it. file: in the output folder; None
    for what is written out."""

    title: str
    value: Any
    file: str | None = None


@dataclass(frozen=True)
class Demo:
    """One run of the demo.

    Args:
        pipe: the pipeline.
        model: name, folder or hub id as given.
        out: output folder.
        steps: sampling steps; None for the model's default.
    """

    pipe: VersatileDiffusionPipeline
    model: str
    out: Path
    steps: int | None

    def sections(self, samples: Sequence[Path], others: Sequence[Path] = ()) -> Iterator[Section]:
        """Yield the section of each task with one input that the model supports: the four of images and texts, then all
        others.

        Args:
            samples: images; without them, generated ones are varied.
            others: samples of other modalities.
        """
        shown: set[str] = set()
        sources: list[Path] = []
        for section in self.of_images_and_texts(samples):
            shown.add(section.task)
            sources = sources or [self.out / row.files[0] for row in section.rows if row.files]
            yield section
        yield from self.others(shown, [*(samples or sources), *others])

    def of_images_and_texts(self, samples: Sequence[Path]) -> Iterator[Section]:
        """Yield the sections of the four flows of images and texts, in their own forms."""
        able = {task.name for task in self.pipe.tasks()}
        made: list[Path] = []
        if "text-to-image" in able:
            section = self.text_to_image()
            made = [self.out / row.files[0] for row in section.rows]
            yield section
        sources = list(samples) or made
        if "image-variation" in able and sources:
            yield self.image_variation(sources[:4])
        if "image-to-text" in able and sources:
            yield self.image_to_text(sources)
        if "text-variation" in able:
            yield self.text_variation()

    def text_to_image(self) -> Section:
        """Each prompt in each style, the best of `CANDIDATES` by the model's own encoders."""
        started = time.perf_counter()
        styles: list[str | None] = [style for style in STYLES if style in self.pipe.config.styles] or [None]
        draw = partial(self._run, self.pipe.text_to_image, list(PROMPTS), candidates=CANDIDATES)
        columns = [draw(style=style) for style in styles]
        rows = []
        for k, prompt in enumerate(PROMPTS):
            names = [f"{prompt}-{style}" if style else prompt for style in styles]
            rows.append(Row(prompt, None, tuple(self._save(n, c, k) for n, c in zip(names, columns, strict=True))))
        self._sheet("text-to-image", [c.images[k] for k in range(len(PROMPTS)) for c in columns], len(styles))
        title = f"Text to image, in the styles {', '.join(s for s in styles if s)}" if styles[0] else "Text to image"
        return Section("text-to-image", title, tuple(rows), time.perf_counter() - started)

    def image_variation(self, sources: Sequence[Path]) -> Section:
        """Variations of each image."""
        started = time.perf_counter()
        output = self._run(self.pipe.image_variation, list(sources), num_outputs=VARIATIONS)
        rows = []
        for k, source in enumerate(sources):
            places = range(k * VARIATIONS, (k + 1) * VARIATIONS)
            files = tuple(self._save(f"{source.stem}-variation-{n + 1}", output, p) for n, p in enumerate(places))
            rows.append(Row(source.stem, self._copy(source), files))
        self._sheet("image-variation", output.images, VARIATIONS)
        return Section("image-variation", "Image variations", tuple(rows), time.perf_counter() - started)

    def image_to_text(self, sources: Sequence[Path]) -> Section:
        """Captions for each image, each the best of `CAPTION_CANDIDATES` by the model's own encoders."""
        started = time.perf_counter()
        output = self._run(self.pipe.image_to_text, list(sources), num_outputs=CAPTIONS, candidates=CAPTION_CANDIDATES)
        rows = tuple(
            Row(source.stem, self._copy(source), texts=captions(output, k)) for k, source in enumerate(sources)
        )
        return Section("image-to-text", "Image captions", rows, time.perf_counter() - started)

    def text_variation(self) -> Section:
        """Vary each text; unranked, since the best match would be the text itself."""
        started = time.perf_counter()
        output = self._run(self.pipe.text_variation, list(TEXTS), num_outputs=CAPTIONS)
        rows = tuple(Row(text, None, texts=captions(output, k)) for k, text in enumerate(TEXTS))
        return Section("text-variation", "Text variations", rows, time.perf_counter() - started)

    def others(self, shown: Collection[str], samples: Sequence[Path]) -> Iterator[Section]:
        """Yield the section of each further flow. Inputs are written texts, samples, outputs of earlier flows or, if
        there are none of these, an empty value.

        Args:
            shown: tasks that have a section.
            samples: files of any modality.
        """
        left = [task for task in self.pipe.tasks() if len(task.flow.contexts) == 1 and task.name not in shown]
        known: defaultdict[str, list[FlowInput]] = defaultdict(list)
        for name in self.pipe.unet.context:
            known[name] += [FlowInput(text, text) for text in PROMPTS * (MODALITIES[name].form == "typed")]
        for path in samples if left else ():
            modality = MODALITIES.of_suffix(path.suffix)
            if modality is not None and len(known[modality.name]) < INPUTS:
                known[modality.name].append(FlowInput(path.stem, path, self._copy(path)))
        while left:
            task = next((one for one in left if known[one.flow.contexts[0]]), left[0])
            left.remove(task)
            (context,) = task.flow.contexts
            if sources := (known[context] or self._empty(context))[:INPUTS]:
                section, made = self.flow(task, sources)
                known[task.flow.data] = known[task.flow.data] or made
                yield section

    def flow(self, task: Task, sources: Sequence[FlowInput]) -> tuple[Section, list[FlowInput]]:
        """Return the section of any flow, and the first output of each input as inputs of others."""
        started, modality = time.perf_counter(), MODALITIES[task.flow.data]
        count = CAPTIONS if modality.together else VARIATIONS
        output = self._run(partial(self.pipe.run, task.name), [one.value for one in sources], num_outputs=count)
        rows, made = [], []
        for k, one in enumerate(sources):
            places = range(k * count, (k + 1) * count)
            if modality.together:
                rows.append(Row(one.title, one.file, texts=tuple(modality.line(output.values[p]) for p in places)))
                continue
            files = [self._keep(f"{one.title}-{task.name}-{n + 1}", output, p) for n, p in enumerate(places)]
            rows.append(Row(one.title, one.file, tuple(files)))
            made.append(FlowInput(one.title, self.out / files[0], files[0]))
        title = task.name.replace("-", " ").capitalize()
        return Section(task.name, title, tuple(rows), time.perf_counter() - started), made

    def _empty(self, context: str) -> list[FlowInput]:
        """Return an empty value of a modality as a source; none if it has no empty values."""
        from versatile_diffusion.records.png import write_value

        modality = MODALITIES[context]
        for name in [*modality.blanks][:1]:
            file = f"input-{name}{modality.suffix}"
            with (self.out / file).open("wb") as stream:
                write_value(context, modality.blanks[name], stream)
            return [FlowInput(name, self.out / file, file)]
        return []

    def _keep(self, name: str, output: Output, index: int) -> str:
        """Write an item with its record, embedded or in a JSON file beside it, and return its name."""
        from versatile_diffusion.cli.io.results import RECORD, as_document, record
        from versatile_diffusion.records.png import write_value

        modality, told = MODALITIES[output.data], record(output[index], self.model)
        file = self.out / f"{name.replace(' ', '-')}{modality.suffix}"
        with file.open("wb") as stream:
            write_value(output.data, output.values[index], stream, told)
        if not modality.embeds:
            file.with_suffix(RECORD).write_text(as_document(told), encoding="utf-8")
        return file.name

    def _run(self, task: Any, values: list[Any], **options: Any) -> Output:
        output: Output = task(values, seed=SEED, num_inference_steps=self.steps, **options)
        return output

    def _save(self, name: str, output: Output, index: int) -> str:
        from versatile_diffusion.cli.io.results import record
        from versatile_diffusion.records.png import save_png

        file = f"{name.replace(' ', '-')}.png"
        save_png(output.images[index], self.out / file, record(output[index], self.model))
        return file

    def _copy(self, source: Path) -> str:
        """Copy an input image into the output folder and return its name there."""
        if source.parent == self.out:
            return source.name
        target = self.out / f"input-{source.name}"
        target.write_bytes(source.read_bytes())
        return target.name

    def _sheet(self, name: str, images: Sequence[Image.Image], columns: int) -> None:
        from versatile_diffusion.sheets import grid

        grid(images, columns).save(self.out / f"{name}.png")


def captions(output: Output, index: int) -> tuple[str, ...]:
    """Return the captions of input `index`, one line each."""
    return tuple(" ".join(text.split()) for text in output.texts[index * CAPTIONS : (index + 1) * CAPTIONS])


def print_section(section: Section) -> None:
    """Print a section as a table."""
    from rich.table import Table

    table = Table(title=f"{section.title} ({section.seconds:.1f} s)", title_justify="left", box=None, show_header=False)
    for row in section.rows:
        table.add_row(row.given, "\n".join(row.texts) or " to ".join(dict.fromkeys(row.files[:1] + row.files[-1:])))
    stdout.print()
    stdout.print(table)
