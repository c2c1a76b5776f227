"""`versatile demo`: every flow of a model once, as a report on the terminal and a page of pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.console import note, show, show_json, stdout
from versatile_diffusion.cli.options import Device, Json, Model, Steps

if TYPE_CHECKING:
    from PIL import Image

    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.sampling.output import Output

PROMPTS = ("a red apple", "a smiling face", "a cat face", "a green tree", "a red heart", "a dog face")
STYLES = ("noto", "fluent-3d", "twemoji", "openmoji-black")
TEXTS = ("a red heart", "a dog, 3d emoji", "rain, black line drawing", "a happy face")
CANDIDATES = 4
VARIATIONS = 4
CAPTIONS = 3
CAPTION_CANDIDATES = 8
SEED = 0


@dataclass(frozen=True)
class Row:
    """One input (a text, or a picture's file name) and what was made of it (files or texts)."""

    given: str
    given_file: str | None
    files: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """What one task made."""

    task: str
    title: str
    rows: tuple[Row, ...]
    seconds: float


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out/demo"),
    model: Model = "emoji",
    pictures: Annotated[Path | None, typer.Option(help="Folder of pictures to vary and caption.")] = None,
    steps: Steps = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Run all four flows of a model with fixed seeds; writes the pictures and a page that shows them."""
    from versatile_diffusion.cli.demo_page import write_page
    from versatile_diffusion.cli.files import check_folder
    from versatile_diffusion.cli.model import load

    check_folder(out)
    samples = sample_pictures(model, pictures)
    if (out / "index.html").exists():
        note(f"{out} holds an earlier demo, which is written anew")
    out.mkdir(parents=True, exist_ok=True)
    pipe = load(model, device)
    started = time.perf_counter()
    sections = []
    for section in Demo(pipe, model, out, steps).sections(samples):
        sections.append(section)
        if not json:
            print_section(section)
    write_page(page := out / "index.html", model, sections)
    seconds = time.perf_counter() - started
    if json:
        return show_json({"page": str(page), "seconds": round(seconds, 2), "sections": [asdict(s) for s in sections]})
    show(f"\n{seconds:.0f} s in all; open {page}")


def sample_pictures(model: str, folder: Path | None) -> list[Path]:
    """The pictures of `folder`, or those that the model's distribution brings along (none for other models)."""
    from versatile_diffusion.sampling.models import find_model

    place = Path(find_model(model)).parent / "samples" if folder is None else folder
    found = sorted(place.glob("*.png"))
    if folder is not None and not found:
        raise ValueError(f"--pictures is {folder}, which holds no .png file")
    return found


@dataclass(frozen=True)
class Demo:
    """One run of the demo.

    Args:
        pipe: the model.
        model: how it was asked for.
        out: folder of all files.
        steps: of the sampler; the model's own number if None.
    """

    pipe: VersatileDiffusionPipeline
    model: str
    out: Path
    steps: int | None

    def sections(self, samples: Sequence[Path]) -> Iterator[Section]:
        """Each task that the model can do, in turn. Without samples, pictures that were just made are varied."""
        able = {task.name for task in self.pipe.tasks()}
        made: list[Path] = []
        if "text-to-image" in able:
            section = self.pictures_from_texts()
            made = [self.out / row.files[0] for row in section.rows]
            yield section
        sources = list(samples) or made
        if "image-variation" in able and sources:
            yield self.pictures_from_pictures(sources[:4])
        if "image-to-text" in able and sources:
            yield self.texts_from_pictures(sources)
        if "text-variation" in able:
            yield self.texts_from_texts()

    def pictures_from_texts(self) -> Section:
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
        title = (
            f"Pictures from texts, in the styles {', '.join(s for s in styles if s)}"
            if styles[0]
            else "Pictures from texts"
        )
        return Section("text-to-image", title, tuple(rows), time.perf_counter() - started)

    def pictures_from_pictures(self, sources: Sequence[Path]) -> Section:
        """Variations of each picture."""
        started = time.perf_counter()
        output = self._run(self.pipe.image_variation, list(sources), num_outputs=VARIATIONS)
        rows = []
        for k, source in enumerate(sources):
            places = range(k * VARIATIONS, (k + 1) * VARIATIONS)
            files = tuple(self._save(f"{source.stem}-variation-{n + 1}", output, p) for n, p in enumerate(places))
            rows.append(Row(source.stem, self._copy(source), files))
        self._sheet("image-variation", output.images, VARIATIONS)
        return Section("image-variation", "Variations of pictures", tuple(rows), time.perf_counter() - started)

    def texts_from_pictures(self, sources: Sequence[Path]) -> Section:
        """Captions for each picture, each the best of `CAPTION_CANDIDATES` by the model's own encoders."""
        started = time.perf_counter()
        output = self._run(self.pipe.image_to_text, list(sources), num_outputs=CAPTIONS, candidates=CAPTION_CANDIDATES)
        rows = tuple(
            Row(source.stem, self._copy(source), texts=captions(output, k)) for k, source in enumerate(sources)
        )
        return Section("image-to-text", "Texts from pictures", rows, time.perf_counter() - started)

    def texts_from_texts(self) -> Section:
        """Other words for each text, as they come: the best of many would be the text itself."""
        started = time.perf_counter()
        output = self._run(self.pipe.text_variation, list(TEXTS), num_outputs=CAPTIONS)
        rows = tuple(Row(text, None, texts=captions(output, k)) for k, text in enumerate(TEXTS))
        return Section("text-variation", "Variations of texts", rows, time.perf_counter() - started)

    def _run(self, task: Any, values: list[Any], **options: Any) -> Output:
        return task(values, seed=SEED, num_inference_steps=self.steps, **options)

    def _save(self, name: str, output: Output, index: int) -> str:
        from versatile_diffusion.cli.results import record
        from versatile_diffusion.sampling.metadata import save_png

        file = f"{name.replace(' ', '-')}.png"
        save_png(output.images[index], self.out / file, record(output[index], self.model))
        return file

    def _copy(self, source: Path) -> str:
        """The picture's name in the folder, where the page finds it."""
        if source.parent == self.out:
            return source.name
        target = self.out / f"input-{source.name}"
        target.write_bytes(source.read_bytes())
        return target.name

    def _sheet(self, name: str, images: Sequence[Image.Image], columns: int) -> None:
        from versatile_diffusion.cli.files import grid

        grid(images, columns).save(self.out / f"{name}.png")


def captions(output: Output, index: int) -> tuple[str, ...]:
    """The texts made for input `index`, each in one line."""
    return tuple(" ".join(text.split()) for text in output.texts[index * CAPTIONS : (index + 1) * CAPTIONS])


def print_section(section: Section) -> None:
    """For the terminal."""
    from rich.table import Table

    table = Table(title=f"{section.title} ({section.seconds:.1f} s)", title_justify="left", box=None, show_header=False)
    for row in section.rows:
        table.add_row(row.given, "\n".join(row.texts) or " to ".join(dict.fromkeys((row.files[0], row.files[-1]))))
    stdout.print()
    stdout.print(table)
