"""Editing a picture through words: picture -> text latent -> edited caption -> picture (the paper's I2T2I).

Two forms. With `remove` and `add` the text latent of the picture is changed as the release of 2022 does it. With
`caption` people see the caption, write their own, and the picture is made again under both.
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
from versatile_diffusion.sampling.focus import Focus, apply_focus, focus_null
from versatile_diffusion.sampling.guidance import Guide, joined
from versatile_diffusion.sampling.output import Output

if TYPE_CHECKING:
    from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline

IMAGE_WEIGHT = 0.33
REDUCED = Focus(1, "2022", drop_global=True, on_null=False)
"""Image tokens of the second pass: the ten strongest components, without the global token."""


def steer(
    latent: Float[Tensor, "b z"],
    remove: Float[Tensor, "#b z"] | None = None,
    add: Float[Tensor, "#b z"] | None = None,
) -> Float[Tensor, "b z"]:
    """Text latents without their part along `remove`, and with `add` added. A direction of zero removes nothing."""
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
    """What guides the second pass of 2022: the image, reduced, and the text.

    Args:
        image: context tokens of the picture, and its null context.
        caption: tokens of the edited caption.
        prompt: tokens of what is added; they follow those of the caption.
        empty: tokens of the empty text, which stands for both of them in the null context.
        image_weight: share of the image; the text has the rest.
        focus: how the image is reduced.
    """
    tokens, null = image
    half = (1 - image_weight) / 2
    words, blanks = (
        joined([Context("text", part.expand(len(caption), -1, -1), half) for part in parts])[0]
        for parts in ((caption, prompt), (empty, empty))
    )
    reduced = Context("image", apply_focus(tokens, focus), image_weight)
    return Guide(reduced, focus_null(null, focus)), Guide(words, blanks.tokens)


@dataclass(frozen=True)
class EditResult:
    """Every stage of an edit.

    Args:
        before: captions of the picture as the model sees it, with their latents; None where the user's own words are
            all that counts.
        after: edited captions, one per picture made.
        latents: (B, Z), the edited text latents; None for the user's own words.
        picture: the pictures made from both.
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
    """A picture changed by words (the paper's image -> text -> image editing).

    Args:
        pipe: with image and text as data and as contexts; for `caption` image as data is enough.
        image: the picture.
        remove: what its caption is to lose.
        add: what its caption is to gain.
        caption: the whole caption in the user's words, in place of `remove` and `add`.
        image_weight: share of the picture in the second pass, 0 to 1; the caption has the rest.
        focus: how the picture is reduced in the second pass; None takes it whole.
        seed: item k has `seed + k` in both passes.
        captioning: arguments of the first pass, such as `guidance_scale`.
        options: arguments of the second pass as in `generate`; `num_outputs` also says how many captions the first pass
            makes, one for each picture.

    Raises:
        ValueError: nothing to change, both forms at once, or the model has no such flows.
    """
    if caption is None and remove is None and add is None:
        raise ValueError("nothing to change: give remove or add, or a caption of your own")
    if caption is not None and (remove is not None or add is not None):
        raise ValueError("give either a caption of your own, or remove and add, not both")
    if not 0 <= image_weight <= 1:
        raise ValueError(f"image_weight is {image_weight}; it must be from 0 to 1")
    picture = Condition("image", image, weight=image_weight, focus=focus)
    if caption is not None:
        text = Condition("text", caption, weight=1 - image_weight)
        return EditResult(None, (caption,), None, pipe.generate("image", [picture, text], seed=seed, **options))
    count = {"num_outputs": options.pop("num_outputs", 1)}
    before = describe(pipe, image, seed=seed, **count, **(captioning or {}))
    latents, after = reworded(pipe, before, remove, add)
    texts = [after] if add is None else [after, add]
    words = [Condition("text", text, weight=(1 - image_weight) / len(texts)) for text in texts]
    options = {"mixing": "join", "seed": before.settings["seeds"], **options}
    return EditResult(before, tuple(after), latents, pipe.generate("image", [picture, *words], **options))


def describe(pipe: VersatileDiffusionPipeline, image: Any, **options: Any) -> Output:
    """Captions of a picture, decoded greedily so that an edit of nothing changes nothing; options as in `generate`."""
    return pipe.image_to_text(image, **{"temperature": 0.0, **options})


@torch.no_grad()
def reworded(
    pipe: VersatileDiffusionPipeline, before: Output, remove: str | None, add: str | None
) -> tuple[Float[Tensor, "b z"], list[str]]:
    """Edited latents of captions, and the texts that they say."""
    codec = pipe.bank.codecs["text"]
    given = {"remove": remove, "add": add}
    directions = {name: codec.encode([text]).to(before.latents) for name, text in given.items() if text is not None}
    latents = steer(before.latents, **directions)
    return latents, codec.decode(latents)
