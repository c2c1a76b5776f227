"""What a model with audio can do, by judges that are no part of it, on held-out recordings.

    python -m versatile_diffusion.recipes.speech.figures --model MODEL --data data/speech --judge JUDGE \
        --image-judge tests/data/judge --out runs/figures

writes `figures.json` and `figures.md`. The same model and options give the same figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from versatile_diffusion.evaluation import captions
from versatile_diffusion.evaluation.intervals import Measured, bootstrap, mean
from versatile_diffusion.evaluation.items import spread
from versatile_diffusion.evaluation.judge_network import PictureJudge
from versatile_diffusion.evaluation.networks import fit_images, load_judge, pixels
from versatile_diffusion.files import write_whole
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.audio.vae import levels_of
from versatile_diffusion.modalities.audio.waveform import Waveform
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.speech.codec import mel_distance
from versatile_diffusion.recipes.speech.data.reader import SpeechSet
from versatile_diffusion.recipes.speech.diffuser import AUDIO, NEW, emoji_beside
from versatile_diffusion.recipes.speech.judge import SpeechJudge
from versatile_diffusion.tasks import TASKS

BATCH = 16
RESAMPLES = 500
AMONG = 5
SPLIT = "pair-test"
IMAGE_SIDE = 64
Figures = dict[str, dict[str, Measured]]
"""By way (given recordings, the codec, a task) and measure."""


@dataclass(frozen=True)
class Heard:
    """Held-out items: a recording with its word and voice, a caption that names both, and a held-out drawing.

    Args:
        waves: recordings.
        words, labels: concept keys and names.
        voices: voice names.
        prompts: captions "label, voice".
        drawings: drawings of the words, of the same split; None where there is none.
    """

    waves: Sequence[Waveform]
    words: Sequence[str]
    labels: Sequence[str]
    voices: Sequence[str]
    prompts: Sequence[str]
    drawings: Sequence[Any]

    @classmethod
    def of(cls, data: SpeechSet, drawings: EmojiSet, count: int) -> Heard:
        rows = spread(len(data), count)
        shown = {drawings.concept_keys[c]: row for row, c in reversed([*enumerate(drawings.concepts.tolist())])}
        keys = [data.concept_keys[data.concepts[row]] for row in rows]
        check = MODALITIES["image"].check
        return cls(
            waves=[data.waves[row] for row in rows],
            words=keys,
            labels=[data.labels[row] for row in rows],
            voices=[data.voice_names[data.voices[row]] for row in rows],
            prompts=[data.captions[row][0] for row in rows],
            drawings=[check(drawings.pictures[shown[key]]) if key in shown else None for key in keys],
        )

    def only(self, rows: Sequence[int]) -> Heard:
        """Some of the items."""
        return Heard(*([values[row] for row in rows] for values in vars(self).values()))


@dataclass(frozen=True)
class Judges:
    """Of recordings, and of images (None leaves these out)."""

    speech: SpeechJudge
    image: PictureJudge | None

    def recordings(self, waves: Sequence[Waveform], items: Heard) -> dict[str, np.ndarray]:
        """Whether word and voice are recognised."""
        words, voices = self.speech.heard(waves)
        return {"word": _hits(words, items.words), "voice": _hits(voices, items.voices)}

    @torch.no_grad()
    def images(self, images: Sequence[Any], items: Heard) -> dict[str, np.ndarray]:
        """Whether the concept is recognised, first and among the first five; not a number where it is unknown."""
        if self.image is None:
            return {}
        parts = [fit_images(images[k : k + BATCH], IMAGE_SIDE) for k in range(0, len(images), BATCH)]
        order = torch.cat([self.image(pixels(part, self.image.device)).likeliest(AMONG).cpu() for part in parts])
        known = {key: place for place, key in enumerate(self.image.config.concepts)}
        wanted = torch.tensor([known.get(word, -2) for word in items.words])
        hit, unknown = (order == wanted[:, None]).double(), (wanted == -2).numpy()
        return {
            "concept": np.where(unknown, np.nan, hit[:, 0]),
            "concept among five": np.where(unknown, np.nan, hit.amax(1)),
        }


def _hits(found: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    return np.array([a == b for a, b in zip(found, wanted, strict=True)], float)


def texts(made: Sequence[str], items: Heard) -> dict[str, np.ndarray]:
    """Whether a text is the label, word for word (a style after a comma aside); and whether it contains it."""
    pairs = [*zip(made, items.labels, strict=True)]
    exact = [captions.words(text.partition(",")[0]) == captions.words(label) for text, label in pairs]
    return {
        "label exact": np.array(exact, float),
        "label": np.array([captions.names(text, label) for text, label in pairs], float),
    }


def measure(pipe: VersatileDiffusionPipeline, items: Heard, judges: Judges, steps: int | None = None) -> Figures:
    """Measure real recordings, the codec, and every flow with audio that the model has: one draw, and the best of as
    many candidates as the model's defaults say.

    Args:
        pipe: the model.
        items: held-out items.
        judges: of what it generates.
        steps: sampling steps; None uses the model's.
    """
    codec = pipe.bank.codecs[AUDIO]
    found: Figures = {"recordings": _measures(judges.recordings(items.waves, items))}
    restored = _in_parts(lambda part: codec.decode(codec.encode(part)), items.waves)
    distance = mel_distance(levels_of(restored), levels_of(items.waves)).double().numpy()
    found["codec"] = _measures({**judges.recordings(restored, items), "mel distance (dB)": distance})
    able = {task.name for task in pipe.tasks()}
    for name in (*NEW, "text-to-image", "image-to-text"):
        if name in able:
            found[name] = _of_task(pipe, name, items, judges, steps, 1)
            if (most := pipe.config["defaults"].get(name, {}).get("candidates", 1)) > 1:
                found[f"{name}, best of {most}"] = _of_task(pipe, name, items, judges, steps, most)
    found["audio + image to text"] = _mixed_labels(pipe, items, steps)
    return {way: row for way, row in found.items() if row}


def _of_task(
    pipe: VersatileDiffusionPipeline, name: str, items: Heard, judges: Judges, steps: int | None, candidates: int
) -> dict[str, Measured]:
    flow = TASKS[name].flow
    if flow.contexts == ("image",):
        items = items.only([row for row, drawing in enumerate(items.drawings) if drawing is not None])
    given = {AUDIO: items.waves, "text": items.prompts, "image": items.drawings}[flow.contexts[0]]
    if not given:
        return {}
    options: dict[str, Any] = {} if steps is None else {"num_inference_steps": steps}
    made = _in_parts(lambda part: pipe.run(name, part, seed=0, candidates=candidates, **options).values, given)
    if flow.data == AUDIO:
        hits = judges.recordings(made, items)
        if flow.contexts == (AUDIO,):
            hits = {"word kept": hits["word"], "voice changed": 1 - hits["voice"]}
        elif flow.contexts == ("image",):
            del hits["voice"]
    else:
        hits = judges.images(made, items) if flow.data == "image" else texts(made, items)
    return _measures(hits)


def _mixed_labels(pipe: VersatileDiffusionPipeline, items: Heard, steps: int | None) -> dict[str, Measured]:
    """Labels from a recording and a drawing of it together."""
    items = items.only([row for row, drawing in enumerate(items.drawings) if drawing is not None])
    options: dict[str, Any] = {} if steps is None else {"num_inference_steps": steps}

    def run(rows: Sequence[int]) -> list[str]:
        conditions = [
            Condition(AUDIO, [items.waves[row] for row in rows]),
            Condition("image", [items.drawings[row] for row in rows]),
        ]
        return pipe.generate("text", conditions, guidance_scale=2.0, seed=0, **options).values

    made = _in_parts(run, range(len(items.words)))
    return _measures(texts(made, items)) if made else {}


def _in_parts(make: Callable[[Any], Sequence[Any]], values: Sequence[Any]) -> list[Any]:
    return [one for start in range(0, len(values), BATCH) for one in make(values[start : start + BATCH])]


def _measures(hits: dict[str, np.ndarray]) -> dict[str, Measured]:
    kept = {name: rows[~np.isnan(rows)] for name, rows in hits.items()}
    return {name: bootstrap(rows, mean, RESAMPLES) for name, rows in kept.items() if len(rows)}


def page(found: Figures) -> str:
    """Return a table; shares with 95 % confidence intervals."""
    lines = ["| way | measure | value | 95 % | items |", "|---|---|---:|---|---:|"]
    for way, row in found.items():
        lines += [f"| {way} | {name} | {one.number} | {one.interval} | {one.count} |" for name, one in row.items()]
    return "\n".join(lines) + "\n"


def main(
    model: Annotated[str, typer.Option(help="Model with audio: name, folder or hub id.")],
    data: Annotated[Path, typer.Option(help="Speech set, with the emoji set beside it.")],
    judge: Annotated[Path, typer.Option(help="Folder of the judges of recordings.")],
    image_judge: Annotated[Path | None, typer.Option(help="Folder of the judge of images.")] = None,
    split: Annotated[str, typer.Option(help="Split of the sets.")] = SPLIT,
    count: Annotated[int, typer.Option(min=2, help="Items, evenly spaced.")] = 96,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; default: the model's.")] = None,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("figures"),
) -> None:
    """Measure a model with audio."""
    pipe = VersatileDiffusionPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    items = Heard.of(SpeechSet.load(data, split), EmojiSet.load(emoji_beside(data), split), count)
    images = None if image_judge is None else load_judge(str(image_judge), torch.device("cpu"))
    judges = Judges(SpeechJudge.from_pretrained(judge).eval(), images)
    found = measure(pipe, items, judges, steps)
    out.mkdir(parents=True, exist_ok=True)
    rows = {way: {name: asdict(one) for name, one in row.items()} for way, row in found.items()}
    told = {"model": model, "split": split, "count": count, "steps": steps, "figures": rows}
    text = json.dumps(told, indent=1) + "\n"
    write_whole(out / "figures.json", lambda new: new.write_text(text, encoding="utf-8"))
    write_whole(out / "figures.md", lambda new: new.write_text(page(found), encoding="utf-8"))
    print(page(found), end="")


if __name__ == "__main__":
    typer.run(main)
