"""Editing an image with words: image -> text latent -> edited caption -> image (the paper's I2T2I).

`remove` and `add` edit the image's text latent, as the 2022 release does. `caption` is a caption written by the user,
typically an edit of the image's own; the image is regenerated from image and caption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.numeric import number
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.sampling.focus import Focus, apply_focus, focus_null
from versatile_diffusion.sampling.rules import Guide, join_contexts

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline

IMAGE_WEIGHT = 0.33
REDUCED = Focus(1, "2022", drop_global=True, on_null=False)
"""Focus of the second pass: the ten main components, without the global token."""


def steer(
    latent: Float[Tensor, "b z"],
    remove: Float[Tensor, "#b z"] | None = None,
    add: Float[Tensor, "#b z"] | None = None,
) -> Float[Tensor, "b z"]:
    """Remove the component of text latents along `remove`, then add `add`. A zero direction removes nothing."""
    if remove is not None:
        length = remove.square().sum(-1, keepdim=True)
        along = (latent * remove).sum(-1, keepdim=True) / length.where(length > 0, 1)
        latent = latent - along * remove
    return latent if add is None else latent + add


def second_pass(
    image: tuple[Float[Tensor, "b l d"], Float[Tensor, "b l d"]],
    caption: Float[Tensor, "b k d"],
    prompt: Float[Tensor, "#b k2 d"],
    empty: Float[Tensor, "#b k3 d"],
    image_weight: float = IMAGE_WEIGHT,
    focus: Focus = REDUCED,
) -> tuple[Guide, Guide]:
    """Return the contexts of the second pass as in the 2022 release: the reduced image, and the text.

    Args:
        image: context tokens of the image, and its null context.
        caption: tokens of the edited caption.
        prompt: tokens of the added text; they follow those of the caption.
        empty: tokens of the empty text; the null context for both.
        image_weight: weight of the image; the text has the rest.
        focus: how the image is reduced.
    """
    tokens, null = image
    half = (1 - image_weight) / 2
    words, blanks = (
        join_contexts([Context("text", part.expand(len(caption), -1, -1), half) for part in parts])[0]
        for parts in ((caption, prompt), (empty, empty))
    )
    reduced = Context("image", apply_focus(tokens, focus), image_weight)
    return Guide(reduced, focus_null(null, focus)), Guide(words, blanks.tokens)


@dataclass(frozen=True)
class EditResult:
    """All stages of an edit.

    Args:
        before: captions of the image with their latents; None with a user caption.
        after: edited captions, one per image.
        latents: (B, Z) edited text latents; None with a user caption.
        picture: the generated images.
    """

    before: Output | None
    after: tuple[str, ...]
    latents: Tensor | None
    picture: Output

    def __len__(self) -> int:
        return len(self.picture)


def edit(
    pipe: VersatileDiffusionPipeline,
    image: Any,
    *,
    remove: str | None = None,
    add: str | None = None,
    caption: str | None = None,
    image_weight: float = IMAGE_WEIGHT,
    focus: Focus | None = REDUCED,
    seed: int | None = None,
    captioning: Mapping[str, Any] | None = None,
    **options: Any,
) -> EditResult:
    """Edit an image with words (image -> text -> image in the paper).

    Args:
        pipe: pipeline with image and text as data and context; `caption` needs no text data stream.
        image: the image.
        remove: what to remove from the caption.
        add: what to add to the caption.
        caption: the full target caption, instead of `remove` and `add`.
        image_weight: weight of the image in the second pass, 0 to 1; the caption has the rest.
        focus: how the image is reduced in the second pass; None uses the whole image.
        seed: item k uses `seed + k` in both passes.
        captioning: arguments of the first pass, e.g. `guidance_scale`.
        options: arguments of the second pass as in `generate`; `num_outputs` also sets the number of captions, one per
            image.

    Raises:
        ValueError: no edit given, both forms given, or a missing flow.
    """
    if caption is None and remove is None and add is None:
        raise ValueError("nothing to edit; give remove or add, or a caption")
    if caption is not None and (remove is not None or add is not None):
        raise ValueError("give either caption, or remove and add, not both")
    image_weight = number("image_weight", image_weight, most=1)
    picture = Condition("image", image, weight=image_weight, focus=focus)
    if caption is not None:
        text = Condition("text", caption, weight=1 - image_weight)
        return EditResult(None, (caption,), None, pipe.generate("image", [picture, text], seed=seed, **options))
    count = {"num_outputs": options.pop("num_outputs", 1)}
    before = describe(pipe, image, seed=seed, **count, **(captioning or {}))
    latents, after = reword(pipe, before, remove, add)
    texts = [after] if add is None else [after, add]
    words = [Condition("text", text, weight=(1 - image_weight) / len(texts)) for text in texts]
    options = {"mixing": "join", "seed": before.settings["seeds"], **options}
    return EditResult(before, tuple(after), latents, pipe.generate("image", [picture, *words], **options))


def describe(pipe: VersatileDiffusionPipeline, image: Any, **options: Any) -> Output:
    """Caption an image greedily, so that an empty edit changes nothing; options as in `generate`."""
    return pipe.image_to_text(image, **{"temperature": 0.0, **options})


@torch.no_grad()
def reword(
    pipe: VersatileDiffusionPipeline, before: Output, remove: str | None, add: str | None
) -> tuple[Float[Tensor, "b z"], list[str]]:
    """Return edited caption latents, and their decoded captions."""
    codec = pipe.bank.codecs["text"]
    check = MODALITIES["text"].check
    given = {name: check(text) for name, text in (("remove", remove), ("add", add)) if text is not None}
    directions = {name: codec.encode([text]).to(before.latents) for name, text in given.items()}
    latents = steer(before.latents, **directions)
    return latents, codec.decode(latents)
