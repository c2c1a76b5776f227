"""Values to context tokens and latents and back, without generating."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.choices import chosen, unknown
from versatile_diffusion.controls import DECODING, MOST_ITEMS
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities.records import TEXT
from versatile_diffusion.numeric import number, switch
from versatile_diffusion.pipeline.conditions import GivenCondition
from versatile_diffusion.pipeline.inputs import as_list, latents_to_decode, read_values
from versatile_diffusion.pipeline.model import Model
from versatile_diffusion.pipeline.options import DecodingOptions
from versatile_diffusion.pipeline.output import OUTPUT_TYPES, convert_values
from versatile_diffusion.sampling import seeds

if TYPE_CHECKING:
    pass


def _model(pipe: Any) -> Model:
    """A pipeline as what functions below it need."""
    model: Model = pipe
    return model


class EncodingMethods:
    """What the codecs and context encoders of a pipeline give by themselves."""

    if TYPE_CHECKING:
        bank: Any  # ModalityBank; its parts are of many kinds
        unet: Any
        config: Any

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b l d"] | None]:
        """Context tokens of prompts and of negative prompts, for `prompt_embeds=` and `negative_prompt_embeds=`.

        Args:
            prompt: one or several.
            device: of the tokens; where the encoder computes if omitted.
            num_images_per_prompt: copies of each, next to each other.
            do_classifier_free_guidance: whether negative tokens are wanted.
            negative_prompt: one for all or one each; the empty prompt if omitted.

        Returns:
            (B, L, D) each; None in place of the negative ones where they are not wanted.

        Raises:
            ValueError: this model has no context encoder for texts, or not one negative prompt each.
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        copies = number("num_images_per_prompt", num_images_per_prompt, 1, MOST_ITEMS, whole=True)
        away = [negative_prompt or ""] if isinstance(negative_prompt, str | None) else list(negative_prompt)
        if len(away) not in (1, len(texts)):
            raise ValueError(f"{len(away)} negative prompts for {len(texts)} prompts; give one for all, or one each")
        wanted = [texts]
        if switch("do_classifier_free_guidance", do_classifier_free_guidance):
            wanted.append(away * (len(texts) // len(away)))
        tokens = [self.encode_context(one, TEXT.name).repeat_interleave(copies, dim=0).to(device) for one in wanted]
        return tokens[0], (tokens[1] if len(tokens) > 1 else None)

    @torch.no_grad()
    def encode_context(self, value: Any, modality: str | None = None, *, mask: Any = None) -> Float[Tensor, "*b l d"]:
        """Context tokens: (L, D) of one value, (B, L, D) of a list of values.

        Args:
            value: raw value (image, path, array or text), or a list of values of one modality.
            modality: its modality; inferred by default.
            mask: which part of it counts, as in `Condition`; a list for a list.

        Raises:
            ValueError: the value can be read as no modality, or as several; or the model has no encoder for it.
        """
        value = as_list(value)
        modality, raw = read_values(_model(self), value, modality, list(self.bank.encoders))
        checked = GivenCondition.check(Condition(modality, raw, mask=mask))
        tokens: Tensor = self.bank.encoders[modality].encode(raw, checked.masks).contiguous()
        return tokens if isinstance(value, list | tuple) else tokens[0]

    @torch.no_grad()
    def encode_latent(
        self, value: Any, modality: str | None = None, *, seed: seeds.Seed = None
    ) -> Float[Tensor, "..."]:
        """Latents: (...) of one value, (B, ...) of a list of values, as `decode_latent` and `init_latent` take them.

        Args:
            value, modality: as in `encode_context`.
            seed: samples the codec's posterior, item k of a list with `seed + k`; its mean is taken without.
        """
        value = as_list(value)
        modality, raw = read_values(_model(self), value, modality, list(self.bank.codecs))
        sources = None if seed is None else seeds.generators(seeds.item_seeds(len(raw), seed))
        latents: Tensor = self.bank.codecs[modality].encode(raw, sources).contiguous()
        return latents if isinstance(value, list | tuple) else latents[0]

    @torch.no_grad()
    def decode_latent(
        self,
        latent: Any,
        modality: str | None = None,
        *,
        seed: seeds.Seed = None,
        output_type: str = "pil",
        **decoding: Unpack[DecodingOptions],
    ) -> Any:
        """The raw value of one latent (...), or a list of values of latents (B, ...).

        Args:
            latent: a tensor, an array or `Embeddings`, at the codec's scale, as `encode_latent` and generation with
                `output="latent"` give it.
            modality: its modality; inferred from the number of axes by default.
            seed: samples texts, item k with `seed + k`; the most likely tokens are taken without.
            output_type: for images `"pil"`, `"np"` or `"pt"`.
            decoding: `temperature`, `top_k`, `top_p` of texts.

        Raises:
            ValueError: the latent has another shape, or belongs to another codec.
        """
        chosen("output_type", output_type, OUTPUT_TYPES)
        modality, batch, single = latents_to_decode(_model(self), latent, modality)
        codec = self.bank.codecs[modality]
        if strange := [name for name in decoding if name not in DECODING]:
            raise ValueError(unknown("decoding option", strange[0], DECODING))
        sources = None if seed is None else seeds.generators(seeds.item_seeds(len(batch), seed))
        values = convert_values(codec.decode(batch, sources, **decoding), modality, output_type)
        return values[0] if single else values
