"""CLIP weights and configurations as the two official context encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from accelerate import init_empty_weights
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPConfig

from versatile_diffusion.interop.read.weights import assign
from versatile_diffusion.modalities.encoders.clip import CLIPImageContext, CLIPTextContext
from versatile_diffusion.modalities.encoders.clip_hidden import CLIPHiddenTextContext

Tower = TypeVar("Tower", CLIPTextContext, CLIPImageContext)

_LATER_NAMES = ("embeddings.", "encoder.", "final_layer_norm.")  # of a CLIPTextModel as transformers 5 saves it
# section of the configuration, beginnings of the entries, what our names lack of these
_TOWERS: dict[type, tuple[str, tuple[str, ...], str]] = {
    CLIPTextContext: ("text_config", ("text_model.", "text_projection."), ""),
    CLIPHiddenTextContext: ("text_config", ("text_model.", *_LATER_NAMES), "text_model."),
    CLIPImageContext: ("vision_config", ("vision_model.", "visual_projection."), ""),
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
    """The two context encoders of a CLIP: `text` and `image`."""

    def __init__(self, text: CLIPTextContext, image: CLIPImageContext) -> None:
        super().__init__()
        self.text, self.image = text, image

    def text_context(self, ids: Int[Tensor, "b length"]) -> Float[Tensor, "b length d"]:
        """Encode token ids to a context."""
        return self.text(ids)

    def image_context(
        self, pixel_values: Float[Tensor, "b 3 side side"], masks: Float[Tensor, "b 1 h w"] | None = None
    ) -> Float[Tensor, "b tokens d"]:
        """Encode preprocessed images (see `image.preprocess`) with masks (1 keeps) to a context; for PIL images use
        `image.encode`."""
        return self.image(pixel_values, masks)


def tower_config(section: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a tower from the `config.json` of a CLIP; `section` is `text_config` or `vision_config`."""
    whole = CLIPConfig.from_dict(dict(config))
    tower = getattr(whole, section).to_dict()
    return {name: tower[name] for name in _FIELDS if name in tower} | {"projection_dim": whole.projection_dim}


def tower_name(kind: type[Tower], name: str) -> str | None:
    """Convert an entry name of a CLIP to ours; None if it belongs to the other tower."""
    _, beginnings, dropped = _TOWERS[kind]
    mine = name.startswith(beginnings) and not name.endswith(_INDEX_BUFFERS)
    return f"model.{name.removeprefix(dropped)}" if mine else None


def empty_tower(kind: type[Tower], config: Mapping[str, Any]) -> Tower:
    """Build a context encoder on the meta device, see `build_tower`."""
    with init_empty_weights(include_buffers=False):
        return kind(tower_config(_TOWERS[kind][0], config)).eval()


def build_tower(kind: type[Tower], config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Tower:
    """Build a context encoder of a CLIP, `CLIPTextContext` or `CLIPImageContext`.

    Args:
        config: has `text_config` and `vision_config`, as transformers' `config.json`.
        state: entries named as in transformers' CLIPModel (shared, not copied); those of the other tower are ignored.

    Raises:
        ValueError: missing or unknown entries, or shapes that do not match the configuration.
    """
    encoder = empty_tower(kind, config)
    assign(encoder, {ours: value for name, value in state.items() if (ours := tower_name(kind, name)) is not None})
    return encoder


def build_clip(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> CLIPContexts:
    """Build both context encoders from transformers' configuration and state dict of a CLIPModel."""
    return CLIPContexts(build_tower(CLIPTextContext, config, state), build_tower(CLIPImageContext, config, state))
