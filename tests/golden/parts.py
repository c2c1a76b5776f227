"""The way from a raw picture and a raw string to context tokens and sampled latents, part by part.

A part is fed with what is stored of the parts before it, so that where one moves the others do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tests.golden.models import LATENT, SIDE, Models, half_mask, numbers, picture
from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.image.lite_vae import pixels_of
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.denoise import denoise
from versatile_diffusion.sampling.focus import Focus, apply_focus
from versatile_diffusion.sampling.guidance import guided
from versatile_diffusion.sampling.rules import Guide
from versatile_diffusion.sampling.schedulers import SCHEDULERS

Stored = dict[str, Tensor]
TEXTS = ("A red cat, in a hat!", "")
EXACT, CALL, RUN = 0.0, 2e-5, 1e-4  # allowed difference over largest value
LIBRARIES = ("torch", "numpy", "transformers", "tokenizers", "diffusers", "pillow")
STEPS, SCALE = 4, 3.0


@dataclass(frozen=True)
class Part:
    """One part of the way.

    Args:
        run: what it makes of the models and of what is stored.
        allowed: largest difference, over the largest stored value.
        about: what would be to blame.
    """

    run: Callable[[Models, Stored], Tensor]
    allowed: float
    about: str


def raw() -> Image.Image:
    return MODALITIES["image"].check(picture())


def see_through() -> Tensor:
    """A picture with an alpha channel as `check` has it."""
    alpha = np.arange(8 * 8).reshape(8, 8, 1) * 4
    levels = np.concatenate([picture()[:8, :8], alpha.astype(np.uint8)], axis=2)
    return levels_of(MODALITIES["image"].check(levels))


def levels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def ids_of(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids of several texts, filled up with -1."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=-1)


def clip_ids(models: Models) -> Tensor:
    assert models.clip_text.tokenizer is not None
    return ids_of(models.clip_text.tokenizer(list(TEXTS))["input_ids"])


def clip_text(models: Models, stored: Stored) -> Tensor:
    ids, end = stored["clip.text.ids"], 59
    filled = torch.full((len(ids), models.clip_text.length), end)
    filled[:, : ids.shape[1]] = ids.where(ids >= 0, end)
    return models.clip_text(filled)


def optimus_text(models: Models) -> Tensor:
    """Characters of what a row of token ids says; begin and end are 59 and 60, a new word of one letter from 26 up."""
    text = models.optimus.tokens.text([59, 26, 2, 28, 52 + 1, 4, 44, 14, 58, 60, -1])
    return torch.tensor([ord(character) for character in text])


def noise_of(data: str) -> Tensor:
    return numbers(f"noise.{data}", *((1, 4, SIDE // 2, SIDE // 2) if data == "image" else (1, LATENT)))


def guide(stored: Stored, context: str) -> Guide:
    """The first row of the stored tokens guides; the second, or nothing, stands for its absence."""
    tokens = stored[f"clip.{context}.tokens"]
    return Guide(Context(context, tokens[:1]), tokens[1:2] if len(tokens) > 1 else torch.zeros_like(tokens))


def predicted(models: Models, stored: Stored, data: str, contexts: tuple[str, ...]) -> Tensor:
    given = [guide(stored, context).context for context in contexts]
    return models.pipe.unet(noise_of(data), torch.tensor([321]), given, data=data)


def sampled(models: Models, stored: Stored, data: str, contexts: tuple[str, ...]) -> Tensor:
    scheduler = SCHEDULERS["ddim"]()
    scheduler.set_timesteps(STEPS)
    predict = guided(models.pipe.unet, [guide(stored, context) for context in contexts], data=data, scale=SCALE)
    *_, last = denoise(predict, scheduler, noise_of(data))
    return last.latent


def whole(models: Models, stored: Stored, data: str, contexts: tuple[str, ...]) -> Tensor:
    """A sampled latent from raw values through the pipeline."""
    values = {"image": raw(), "text": TEXTS[0]}
    conditions = [Condition(context, values[context]) for context in contexts]
    options = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "seed": 0}
    return models.pipe.generate(data, conditions, latents=noise_of(data), output_type="latent", **options).latents


def _flows() -> dict[str, Part]:
    """A pass, a sampled latent from stored tokens, and one from raw values: of every flow, and of two contexts."""
    flows = [(data, (context,)) for data in ("image", "text") for context in ("image", "text")]
    kinds = {
        "pass": (predicted, CALL, "the diffuser: attention, convolution, norms"),
        "sampled": (sampled, RUN, "sampling: the schedule, guidance, or (see `pass`) the diffuser"),
        "whole": (whole, RUN, "anything between raw values and the latent; the other parts say what"),
    }
    return {
        f"{kind}.{data}_from_{'_and_'.join(contexts)}": Part(partial(run, data=data, contexts=contexts), allowed, about)
        for kind, (run, allowed, about) in kinds.items()
        for data, contexts in [*flows, ("image", ("text", "image"))]
    }


PARTS: dict[str, Part] = {
    "numbers": Part(lambda m, s: numbers("numbers", 8), EXACT, "numpy's PCG64, of which all weights are made"),
    "draws": Part(lambda m, s: seeds.normal((6,), seeds.generators([0, 1])), EXACT, "torch's random generator"),
    "image.levels": Part(lambda m, s: see_through(), EXACT, "reading pictures: transparency onto white"),
    "clip.image.pixels": Part(
        lambda m, s: m.clip_image.preprocess([raw()]), CALL, "CLIP preprocessing: resize filter, crop, rounding, scale"
    ),
    "clip.image.masks": Part(
        lambda m, s: m.clip_image.token_masks(torch.from_numpy(np.array(half_mask()))[None, None] / 255),
        CALL,
        "how a mask becomes shares of tokens",
    ),
    "clip.image.tokens": Part(lambda m, s: m.clip_image(s["clip.image.pixels"]), CALL, "CLIP's image tower"),
    "clip.image.masked": Part(
        lambda m, s: m.clip_image.encode([raw()], [half_mask()]), CALL, "CLIP's image tower with a mask"
    ),
    "clip.text.ids": Part(lambda m, s: clip_ids(m), EXACT, "CLIP's tokenizer"),
    "clip.text.tokens": Part(clip_text, CALL, "CLIP's text tower"),
    "clip.text.encoded": Part(lambda m, s: m.clip_text.encode(TEXTS), CALL, "tokenizer, padding and text tower"),
    "focus.tokens": Part(
        lambda m, s: torch.cat([apply_focus(s["clip.image.tokens"], f) for f in (Focus(-1), Focus(0.8, "2023"))]),
        CALL,
        "eigenvectors of linear algebra",
    ),
    "dual.image.pixels": Part(lambda m, s: pixels_of([raw()], SIDE), CALL, "resizing onto a white square"),
    "dual.image.tokens": Part(
        lambda m, s: m.dual_image(s["dual.image.pixels"]).tokens(1.0), CALL, "the small image encoder"
    ),
    "dual.text.ids": Part(lambda m, s: m.dual_text.ids(TEXTS), EXACT, "the small text encoder's tokenizer"),
    "dual.text.tokens": Part(
        lambda m, s: m.dual_text(s["dual.text.ids"]).tokens(1.0), CALL, "the small text encoder: attention"
    ),
    "autokl.latent": Part(
        lambda m, s: m.autokl.encode_pixels(s["dual.image.pixels"]), CALL, "the official image codec, encoding"
    ),
    "autokl.pixels": Part(lambda m, s: m.autokl.decode_pixels(s["autokl.latent"]), CALL, "the same, decoding"),
    "lite.latent": Part(
        lambda m, s: m.lite_vae.encode([Image.fromarray(to_levels(s["dual.image.pixels"]))]), CALL, "the small codec"
    ),
    "optimus.ids": Part(
        lambda m, s: m.optimus.tokens.for_encoder(TEXTS), EXACT, "BERT's tokenizer: lower case, punctuation, pieces"
    ),
    "optimus.latent": Part(
        lambda m, s: m.optimus.posterior(s["optimus.ids"]).mean, CALL, "the text codec's encoder: attention"
    ),
    "optimus.logits": Part(
        lambda m, s: m.optimus.decoder(numbers("ids", 2, 7).mul(9).abs().long(), s["optimus.latent"]),
        CALL,
        "the text codec's decoder: attention, positions, the latent's two places",
    ),
    "optimus.text": Part(lambda m, s: optimus_text(m), EXACT, "GPT-2's tokenizer, from ids back to words"),
    **_flows(),
}
"""In the order of the way; a part reads only what stands before it."""


def to_levels(pixels: Tensor) -> np.ndarray:
    return rearrange(pixels[0] * 255, "c h w -> h w c").round().byte().numpy()


@torch.no_grad()
def run(part: Part, models: Models, stored: Stored) -> Tensor:
    """What a part makes now, as it is stored."""
    made = part.run(models, stored)
    return (made.float() if made.is_floating_point() else made.long()).contiguous()


def moved(now: Tensor, then: Tensor) -> float:
    """Largest difference over the largest value; infinite where the form differs."""
    if now.shape != then.shape or now.dtype != then.dtype:
        return float("inf")
    return float((now.double() - then.double()).abs().max() / then.double().abs().max().clamp_min(1e-12))


def libraries() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}
