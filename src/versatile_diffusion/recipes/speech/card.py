"""The texts of the distribution `emoji-speech`: project file, package, card and notice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.recipes.emoji.data.sources import PACKAGES
from versatile_diffusion.recipes.speech.data.build import SpeechManifest

NAME = "versatile-diffusion-emoji-speech"
PACKAGE = "versatile_diffusion_emoji_speech"
FIGURES = "figures.md"

PROJECT = f"""[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{NAME}"
version = "0.2.0"
description = "Audio for the small Versatile Diffusion model of emoji: nine flows of images, texts and spoken words"
readme = "README.md"
license = "Apache-2.0"
license-files = ["NOTICE"]
requires-python = ">=3.11"
authors = [{{ name = "The versatile-diffusion authors" }}]
keywords = ["diffusion", "emoji", "speech", "weights", "versatile-diffusion"]
dependencies = ["versatile-diffusion-emoji>=0.2"]

[project.entry-points."versatile_diffusion.models"]
emoji-speech = "{PACKAGE}:path"

[tool.hatch.build.targets.wheel]
packages = ["src/{PACKAGE}"]
"""

MODULE = '''"""Weights that extend the small emoji model by audio, found through an entry point."""

from pathlib import Path


def path() -> Path:
    """The folder that holds the weights that the emoji model lacks."""
    return Path(__file__).parent / "weights"


def samples() -> Path:
    """The folder with recordings to try the model on."""
    return Path(__file__).parent / "samples"
'''

CARD = """# {name}

The small emoji model with spoken words as a third modality: nine flows. Say a word and see it, show an image and hear
its name, read a text aloud, write down what was said, vary a voice. The distribution has only the weights that are
not the emoji model's ({new} parameters); it needs that model in the same version.

```python
from versatile_diffusion import VersatileDiffusionPipeline

pipe = VersatileDiffusionPipeline.from_pretrained("emoji-speech")
pipe.run("text-to-audio", "a red apple", seed=0)
```

`versatile demo --model emoji-speech` writes a page with all nine flows.

## Model

| part | parameters |
|---|---|
{parts}

Recordings are mono, 16 kHz and 1.92 s long. The codec is an autoencoder of log-mel levels, back by Griffin-Lim.

## Data

{count:,} recordings of {words} words in {voices} voices (`versatile data speech`): labels of the emoji set spoken by
espeak-ng {espeak}. Held out: *pair-test* (word and voice both seen, but not together) and *concept-test* (unseen
words).
Sources, authors and licences are in NOTICE.

## Training

`scripts/train_speech.sh` runs the recipe: codec, context encoder, judges, then the emoji model's diffuser with two
streams more. {stage}
{figures}
## Limitations

* Words of the emoji set alone, spoken by one synthesiser: other words and real voices are not understood.
* Those of the emoji model, whose images and captions these are.
"""


PACKAGE_FILES = {"pyproject.toml": PROJECT, f"src/{PACKAGE}/__init__.py": MODULE}
"""The project file and the package's module, by path."""


FROZEN = "Nothing that it had before learns: its four flows are the emoji model's, bit for bit."
FURTHER = (
    "Its four old flows are held to the emoji model's predictions; of their streams, some were trained further: {}."
)


def card(
    pipe: VersatileDiffusionPipeline, manifest: SpeechManifest, changed: Sequence[str], figures: Path | None
) -> str:
    """Return the README. Without figures, it has none.

    Args:
        pipe: the model.
        manifest: of the speech set.
        changed: streams of the emoji model that were trained further, such as `context.text`.
        figures: folder with `figures.md` of this model.
    """
    known, parts = dict(pipe.bank.parts.items()), {}
    for name, part in known.items():
        if name.endswith("audio"):
            parts[f"{name.replace('-', ' of ')}, `{type(part).__name__}`"] = _count(part)
    for group, streams in (("data", pipe.unet.data), ("context", pipe.unet.context)):
        parts[f"{group} stream of audio"] = _count(streams["audio"])
    further = {"{} stream of {}".format(*stream.split(".")): pipe.unet.get_submodule(stream) for stream in changed}
    parts |= {f"{name}, trained further": _count(stream) for name, stream in further.items()}
    rows = "\n".join(f"| {name} | {count / 1e6:.1f} M |" for name, count in parts.items())
    measured = ""
    if figures is not None:
        table = (figures / FIGURES).read_text(encoding="utf-8")
        measured = (
            f"\n## Evaluation\n\nBy judges that are no part of the model, on held-out recordings (shares):\n\n{table}"
        )
    return CARD.format(
        name=NAME,
        new=f"{sum(parts.values()) / 1e6:.1f} M",
        parts=rows,
        count=sum(sum(row.values()) for row in manifest.counts.values()),
        words=len(manifest.concepts),
        voices=len(manifest.voices),
        espeak=manifest.tools["espeak-ng"],
        stage=FURTHER.format(", ".join(further)) if changed else FROZEN,
        figures=measured,
    )


def _count(module: Any) -> int:
    return sum(weight.numel() for weight in module.parameters())


def notice(speech: str) -> str:
    """Return the notice: of the recordings, and of the emoji set. Args: speech: the speech set's notice."""
    packages = "\n".join(f"  - {one.authors}\n    npm package {one.spec}, licence {one.licence}" for one in PACKAGES)
    return f"""{NAME}
Copyright the versatile-diffusion authors
Licensed under the Apache License, Version 2.0.

Recordings
----------

{speech.strip()}

Images and captions
-------------------

The emoji model and its set are made from these packages, which are not part of it:

{packages}
"""
