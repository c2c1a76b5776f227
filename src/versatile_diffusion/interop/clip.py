"""CLIP's weights and configurations as the two official context encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from accelerate import init_empty_weights
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPConfig

from versatile_diffusion.interop.weights import assign
from versatile_diffusion.modalities.clip import CLIPImageContext, CLIPTextContext

Tower = TypeVar("Tower", CLIPTextContext, CLIPImageContext)

# section of the configuration, beginnings of the entries
_TOWERS = {
    CLIPTextContext: ("text_config", ("text_model.", "text_projection.")),
    CLIPImageContext: ("vision_config", ("vision_model.", "visual_projection.")),
}
_FIELDS = (
    "vocab_size",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "image_size",
    "patch_size",
    "num_channels",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
)
_INDEX_BUFFERS = ".position_ids"  # written by transformers before 4.31


class CLIPContexts(nn.Module):
    """The two context encoders of one CLIP: `text` and `image`."""

    def __init__(self, text: CLIPTextContext, image: CLIPImageContext) -> None:
        super().__init__()
        self.text, self.image = text, image

    def text_context(self, ids: Int[Tensor, "b length"]) -> Float[Tensor, "b length d"]:
        """Token ids to a context."""
        return self.text(ids)

    def image_context(
        self, pixel_values: Float[Tensor, "b 3 side side"], masks: Float[Tensor, "b 1 h w"] | None = None
    ) -> Float[Tensor, "b tokens d"]:
        """Preprocessed pictures (see `image.preprocess`) and masks (1 keeps) to a context; for PIL pictures there is
        `image.encode`."""
        return self.image(pixel_values, masks)


def tower_config(section: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of one tower from the `config.json` of a whole CLIP; `section` is `text_config` or `vision_config`."""
    whole = CLIPConfig.from_dict(dict(config))
    tower = getattr(whole, section).to_dict()
    return {name: tower[name] for name in _FIELDS if name in tower} | {"projection_dim": whole.projection_dim}


def build_tower(kind: type[Tower], config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Tower:
    """One context encoder of a CLIP, `CLIPTextContext` or `CLIPImageContext`.

    Args:
        config: with `text_config` and `vision_config`, as in transformers' `config.json`.
        state: entries named as in transformers' CLIPModel (shared, not copied); the other tower's are left aside.

    Raises:
        ValueError: an entry is missing, unknown, or of another shape than the configuration says.
    """
    section, beginnings = _TOWERS[kind]
    with init_empty_weights(include_buffers=False):
        encoder = kind(tower_config(section, config))
    mine = {name: value for name, value in state.items() if name.startswith(beginnings)}
    assign(encoder.model, {name: value for name, value in mine.items() if not name.endswith(_INDEX_BUFFERS)})
    return encoder.eval()


def build_clip(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> CLIPContexts:
    """Both context encoders from transformers' configuration and state dict of a whole CLIPModel."""
    return CLIPContexts(build_tower(CLIPTextContext, config, state), build_tower(CLIPImageContext, config, state))
