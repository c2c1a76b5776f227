"""Pictures from (synthetic) brain signals, in the way of Ozcelik & VanRullen (2023), on the small emoji model.

    python examples/brain_decoding.py --data data/emoji --out out/brain_decoding

Signals of "voxels" are made up: a fixed random linear map of the embeddings of the picture that is "seen", and noise. A
ridge regression learns the way back, to context tokens of the picture and of its caption and to the picture's latent.
What it predicts for pictures that it never saw then goes into the model, in place of the values themselves: the latent
to begin from, both kinds of tokens to guide. Replace `Signals` by measured ones, and all the rest stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from versatile_diffusion import Condition, VersatileDiffusionPipeline, load_embeddings, save_embeddings
from versatile_diffusion.recipes.emoji.data import EmojiSet
from versatile_diffusion.records.record import fingerprint
from versatile_diffusion.sheets import grid
from versatile_diffusion.tokens import match_statistics

TARGETS = {"image tokens": ("context", "image"), "text tokens": ("context", "text"), "latent": ("latent", "image")}
"""What is predicted: name to the kind and the modality of embeddings."""


@dataclass(frozen=True)
class Stimuli:
    """What was "seen", and its embeddings by the names in `TARGETS`: each (N, ...)."""

    pictures: Sequence[Image.Image]
    captions: Sequence[str]
    embeddings: dict[str, Tensor]

    @classmethod
    def of(cls, pipe: VersatileDiffusionPipeline, emoji: EmojiSet, count: int, seed: int) -> Stimuli:
        """`count` pictures drawn from a set (all, if it has fewer), each with its first caption."""
        order = torch.randperm(len(emoji), generator=torch.Generator().manual_seed(seed))[:count].tolist()
        pictures = [Image.fromarray(emoji.pictures[index]) for index in order]
        captions = [emoji.captions[index][0] for index in order]
        values = {"image": pictures, "text": captions}
        encode = {"context": pipe.encode_context, "latent": pipe.encode_latent}
        return cls(
            pictures,
            captions,
            {
                name: torch.cat(
                    [encode[kind](values[modality][k : k + 64], modality) for k in range(0, len(order), 64)]
                )
                for name, (kind, modality) in TARGETS.items()
            },
        )


@dataclass(frozen=True)
class Signals:
    """A made-up brain: each voxel is a random weighted sum of all (standardised) numbers of the embeddings, plus noise.

    Args:
        voxels: how many.
        noise: standard deviation of the noise, in units of the signal's.
        reference: embeddings that say what is standard.
        seed: draws the weights.
    """

    voxels: int
    noise: float
    reference: dict[str, Tensor]
    seed: int = 0

    def __call__(self, embeddings: dict[str, Tensor], seed: int) -> Float[Tensor, "n voxels"]:
        """Signals of stimuli; `seed` draws the noise."""
        weights = torch.Generator().manual_seed(self.seed)
        parts = []
        for name, values in embeddings.items():
            known = self.reference[name].flatten(1)
            standard = (values.flatten(1) - known.mean(dim=0)) / known.std(dim=0).clamp_min(1e-3)
            parts.append(standard @ torch.randn(known.shape[1], self.voxels, generator=weights) / known.shape[1] ** 0.5)
        signal = sum(parts[1:], start=parts[0])
        noise = torch.randn(signal.shape, generator=torch.Generator().manual_seed(seed))
        return signal + self.noise * len(parts) ** 0.5 * noise


@dataclass(frozen=True)
class Ridge:
    """Ridge regression in closed form: one factorisation serves all targets.

    Args:
        mean, std: of each voxel.
        inverse: (X'X + penalty)^-1 X' of the standardised signals X that were fitted.
    """

    mean: Float[Tensor, " voxels"]
    std: Float[Tensor, " voxels"]
    inverse: Float[Tensor, "voxels n"]

    @classmethod
    def fit(cls, signals: Float[Tensor, "n voxels"], penalty: float) -> Ridge:
        """`penalty` is in units of the number of samples, so that it means the same for more of them."""
        mean, std = signals.mean(dim=0), signals.std(dim=0)
        x = (signals - mean) / std
        gram = x.T @ x + penalty * len(x) * torch.eye(x.shape[1])
        return cls(mean, std, torch.cholesky_solve(x.T, torch.linalg.cholesky(gram)))

    def predict(self, signals: Float[Tensor, "m voxels"], target: Float[Tensor, "n ..."]) -> Float[Tensor, "m ..."]:
        """For other signals, what the target is; `target` is that of the signals that were fitted."""
        shares = (signals - self.mean) / self.std @ self.inverse
        mean = target.mean(dim=0)
        return (shares @ (target - mean).flatten(1)).reshape(-1, *mean.shape) + mean


def correlation(predicted: Float[Tensor, "m ..."], true: Float[Tensor, "m ..."]) -> float:
    """Correlation over the items, mean over all numbers that vary."""
    a, b = predicted.flatten(1), true.flatten(1)
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    norms = a.norm(dim=0) * b.norm(dim=0)
    return float(((a * b).sum(dim=0) / norms)[norms > 1e-6].mean())


def identification(predicted: Float[Tensor, "m ..."], true: Float[Tensor, "m ..."]) -> float:
    """Two-way identification: how often a prediction correlates more with its own target than with another one; 0.5
    by chance."""
    a, b = (values.flatten(1) for values in (predicted, true))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    likeness = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
    own = likeness.diagonal()[:, None]
    others = ~torch.eye(len(likeness), dtype=torch.bool)
    return float(((own > likeness).float() + 0.5 * (own == likeness).float())[others].mean())


def reconstruct(
    pipe: VersatileDiffusionPipeline, predicted: dict[str, Tensor], **options: Any
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Pictures of the predicted latents alone; and what the model makes of them, guided by both kinds of tokens."""
    guides = [
        Condition.from_tokens("image", predicted["image tokens"], weight=0.6),
        Condition.from_tokens("text", predicted["text tokens"], weight=0.4),
    ]
    output = pipe.generate("image", guides, init_latent=predicted["latent"], strength=0.75, **options)
    return pipe.decode_latent(predicted["latent"], "image"), output.images


def experiment(
    pipe: VersatileDiffusionPipeline,
    train: Stimuli,
    test: Stimuli,
    out: Path,
    *,
    made: int = 24,
    shown: int = 8,
    voxels: int = 1500,
    noise: float = 1.0,
    penalty: float = 0.3,
    seed: int = 0,
    **options: Any,
) -> dict[str, dict[str, float]]:
    """The whole of it; what it measured. Writes what is predicted (`*.safetensors`) and `sheet.png` to `out`.

    Args:
        made: how many of the test pictures are reconstructed.
        shown: how many of these are on the sheet.
        voxels, noise: see `Signals`.
        penalty: see `Ridge`.
        options: of `generate`.
    """
    brain = Signals(voxels, noise, train.embeddings)
    ridge, signals = Ridge.fit(brain(train.embeddings, seed + 1), penalty), brain(test.embeddings, seed + 2)
    measured, scaled = {}, {}
    for name, (kind, modality) in TARGETS.items():
        known, true = train.embeddings[name], test.embeddings[name]
        predicted = ridge.predict(signals, known)
        measured[name] = {
            "correlation": correlation(predicted, true),
            "identification": identification(predicted, true),
            "control": identification(predicted.roll(1, dims=0), true),  # each with the signals of another
        }
        file = out / f"predicted.{modality}-{kind}.safetensors"
        save_embeddings(
            file, predicted, kind=kind, modality=modality, pipe=pipe, names=test.captions, normalisation="none"
        )
        scaled[name] = match_statistics(load_embeddings(file, pipe).tensor, known)[:made]
    begin, images = reconstruct(pipe, scaled, seed=seed, **options)
    true = test.embeddings["image tokens"][:made]
    for name, pictures in {"latents alone": begin, "reconstructions": images}.items():
        tokens = pipe.encode_context(pictures)
        measured[name] = {
            "identification": identification(tokens, true),
            "control": identification(tokens.roll(1, dims=0), true),
        }
    rows = (test.pictures, begin, images)
    grid([picture for row in rows for picture in row[:shown]], columns=shown).save(out / "sheet.png")
    return measured


def table(measured: Mapping[str, Mapping[str, float]]) -> str:
    """What was measured, for people."""
    columns = ("correlation", "identification", "control")
    lines = [f"{'':18}" + "".join(f"{column:>16}" for column in columns)]
    for name, row in measured.items():
        lines.append(f"{name:18}" + "".join(f"{row[c]:16.3f}" if c in row else f"{'':16}" for c in columns).rstrip())
    return "\n".join(lines)


def main(
    data: Annotated[Path, typer.Option(help="The emoji set: `versatile data emoji --out data/emoji` builds it.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out/brain_decoding"),
    model: Annotated[str, typer.Option(help="Name of a shipped model, a folder, or a hub id.")] = "emoji",
    train: Annotated[int, typer.Option(help="Pictures to learn from.")] = 2000,
    test: Annotated[int, typer.Option(help="Pictures to measure on (of pair-test).")] = 200,
    made: Annotated[int, typer.Option(help="Of these, how many to reconstruct.")] = 24,
    shown: Annotated[int, typer.Option(help="Of these, how many to show.")] = 8,
    voxels: Annotated[int, typer.Option(help="How many numbers a signal has.")] = 1500,
    noise: Annotated[float, typer.Option(help="Noise in the signals; 1: as strong as what they say.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Steps of the sampler.")] = 20,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
) -> None:
    """Decode pictures from made-up brain signals; writes a sheet: seen, latents alone, reconstructed."""
    started = time.perf_counter()
    pipe = VersatileDiffusionPipeline.from_pretrained(model)
    seen = Stimuli.of(pipe, EmojiSet.load(data, "train"), train, seed)
    unseen = Stimuli.of(pipe, EmojiSet.load(data, "pair-test"), test, seed)
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "made": made,
        "shown": shown,
        "voxels": voxels,
        "noise": noise,
        "seed": seed,
        "num_inference_steps": steps,
    }
    measured = experiment(pipe, seen, unseen, out, **settings)
    facts = {"model": pipe.model_name, "fingerprint": fingerprint(pipe.unet, pipe.bank), **settings}
    facts |= {"seconds": round(time.process_time()), "measured": measured}
    (out / "measured.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(table(measured))
    print(f"{time.perf_counter() - started:.0f} s in all, {facts['seconds']} s of processor time")
    print(f"{out / 'sheet.png'}: seen, latents alone, reconstructed")


if __name__ == "__main__":
    typer.run(main)
