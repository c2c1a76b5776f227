"""Packaging of a finished run as a distribution that extends the emoji model: only what that one lacks."""

from __future__ import annotations

import argparse
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from versatile_diffusion.files import draft_of, write_json
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.pipeline.models import find_model
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.recipes.emoji.ship import LARGEST_FILE, forget_paths, round_weights
from versatile_diffusion.recipes.speech.card import NAME, PACKAGE, PACKAGE_FILES, card, notice
from versatile_diffusion.recipes.speech.data.build import SpeechManifest
from versatile_diffusion.recipes.speech.data.reader import SpeechSet
from versatile_diffusion.recipes.speech.diffuser import AUDIO
from versatile_diffusion.records.png import write_value
from versatile_diffusion.shipped import EXTENDS, digest_of

LARGEST = 30_000_000
"""Bytes of all weights that the extended model lacks, as a wheel has them (deflated)."""
BASE = "emoji"
WEIGHTS = "*.safetensors"
SAMPLES = ("strawberry", "cactus", "red heart", "snowman", "owl")
"""Words of the sample recordings; evenly spaced recordings where the set has none of them."""
SPLIT = "pair-test"


def ship(run: Path, data: Path, out: Path, figures: Path | None = None, base: str = BASE) -> int:
    """Write the pipeline exported by `run` as the distribution `out`, in fp16, without what the model `base` has.

    Args:
        run: folder of the diffuser's run.
        data: speech set, for sample recordings and sources.
        out: folder of the distribution; replaced as a whole.
        figures: folder of `recipes.speech.figures` for this model; None leaves figures out of the card.
        base: installed model or folder that is extended.

    Returns:
        the bytes of the weights' folder, deflated.

    Raises:
        ValueError: a run without export, or more than `LARGEST` bytes.
    """
    if not (run / "export").is_dir():
        raise ValueError(f"{run} contains no export; finish its training first (see scripts/train_speech.sh)")
    fresh, below = draft_of(out), Path(find_model(base))
    shutil.rmtree(fresh, ignore_errors=True)  # left by a failed call
    home = fresh / "src" / PACKAGE
    pipe = VersatileDiffusionPipeline.from_pretrained(run / "export")
    pipe.to(dtype=torch.float16)
    for part in (pipe.unet, pipe.bank.codecs[AUDIO], pipe.bank.encoders[AUDIO]):
        round_weights(part)
    pipe.save_pretrained(weights := home / "weights", max_shard_size=9 * LARGEST_FILE // 10)
    forget_paths(weights)
    changed = extend(weights, below, base)
    if (size := sum(len(zlib.compress(path.read_bytes())) for path in weights.rglob("*") if path.is_file())) > LARGEST:
        raise ValueError(
            f"{run} would add {size:,} bytes, deflated, to the {base} model; {changed.total():,} bytes before that are "
            f"layers of it that were trained further; at most {LARGEST:,} are allowed (none where they are frozen)"
        )
    write_samples(data, home / "samples")
    for name, text in {
        **PACKAGE_FILES,
        "README.md": card(pipe, SpeechManifest.read(data), sorted(changed), figures),
        "NOTICE": notice((data / "NOTICE").read_text(encoding="utf-8")),
    }.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_text(text, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    return size


def extend(weights: Path, below: Path, base: str) -> Counter[str]:
    """Remove from a model folder what the folder `below` has, and note which model it extends.

    Returns:
        by stream (such as `context.text`), the bytes of the diffuser's weights that both have, with other values.
    """
    for file in weights.glob(f"bank/*/{WEIGHTS}"):
        other = below / file.relative_to(weights)
        if other.is_file() and _same(load_file(file), load_file(other)):
            file.unlink()
    mine, theirs = _weights(weights / "unet"), _weights(below / "unet")
    new = {name: weight for name, (weight, _) in mine.items() if not _equal(weight, theirs.get(name))}
    places = {name: theirs[name][1] for name in mine.keys() - new.keys()}
    for file in (weights / "unet").glob("*.safetensors*"):
        file.unlink()
    for number, part in enumerate(_parts(new)):
        file = weights / "unet" / f"extension-{number + 1:05d}.safetensors"
        save_file(part, file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file.name)
    total = sum(weight.nbytes for weight, _ in mine.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    write_json(weights / "unet" / "diffusion_pytorch_model.safetensors.index.json", index)
    write_json(weights / EXTENDS, {"model": base, "digest": digest_of(below)})
    changed: Counter[str] = Counter()
    for name in new.keys() & theirs.keys():
        changed[".".join(name.split(".")[:2])] += new[name].nbytes
    return changed


def _weights(folder: Path) -> dict[str, tuple[Tensor, str]]:
    """Return all weights of a component, each with the name of its file."""
    files = sorted(folder.glob(WEIGHTS))
    return {name: (weight, file.name) for file in files for name, weight in load_file(file).items()}


def _equal(one: Tensor, other: tuple[Tensor, str] | None) -> bool:
    return other is not None and one.dtype == other[0].dtype and torch.equal(one, other[0])


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(_equal(weight, (other[name], "")) for name, weight in one.items())


def _parts(weights: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Divide weights into files of at most about `LARGEST_FILE` bytes."""
    part: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if part and sum(one.nbytes for one in part.values()) + weight.nbytes > 9 * LARGEST_FILE // 10:
            yield part
            part = {}
        part[name] = weight
    if part:
        yield part


def write_samples(data: Path, folder: Path) -> None:
    """Write held-out recordings of several words and voices, to try the model on, and say what they are."""
    items = SpeechSet.load(data, SPLIT)
    folder.mkdir(parents=True)
    rows = ["| file | word | voice |", "|---|---|---|"]
    chosen = [items.labels.index(word) for word in SAMPLES if word in items.labels]
    for row in chosen or range(0, len(items), -(-len(items) // len(SAMPLES))):
        label, voice = items.labels[row], items.voice_names[items.voices[row]]
        name = f"{label}-{voice}".replace(" ", "-") + MODALITIES[AUDIO].suffix
        with (folder / name).open("wb") as stream:
            write_value(AUDIO, items.waves[row], stream)
        rows.append(f"| `{name}` | {label} | {voice} |")
    said = f"Spoken by espeak-ng, of the part `{SPLIT}` of the speech set: the model was not trained on them."
    text = "\n".join(["# Sample recordings", "", said, "", *rows, ""])
    (folder / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    """Ship a finished run of the model with audio."""
    parser = argparse.ArgumentParser(prog="python -m versatile_diffusion.recipes.speech.ship", description=main.__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the diffuser's run")
    parser.add_argument("--data", type=Path, required=True, help="speech set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the distribution")
    parser.add_argument("--figures", type=Path, help="folder of its figures, for the card")
    size = ship(**vars(given := parser.parse_args()))
    print(f"{given.out}: {NAME}, {size / 1e6:.1f} MB as a wheel")


if __name__ == "__main__":
    main()
