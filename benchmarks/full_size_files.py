"""A full-size file set of random weights, for benchmarks: in the official layout of 2023, then in diffusers'."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import CLIPConfig

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.convert import convert, official_states
from versatile_diffusion.interop.names.autokl import autokl_config
from versatile_diffusion.interop.official import FULL_SIZE, diffuser_config
from versatile_diffusion.interop.read.clip import empty_tower
from versatile_diffusion.interop.read.found import CONFIG_FILE
from versatile_diffusion.interop.read.official_optimus import FULL_SIZE as OPTIMUS
from versatile_diffusion.interop.read.official_optimus import TIED, empty_optimus
from versatile_diffusion.interop.write.tensors import write_safetensors
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.encoders.clip import CLIPImageContext, CLIPTextContext
from versatile_diffusion.modalities.image.autokl import AutoKLCodec
from versatile_diffusion.sampling.schedulers import SCHEDULERS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny_official

AUTOKL: dict[str, Any] = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 512,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
    },
}
CLIP: dict[str, Any] = {
    "projection_dim": 768,
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        **tiny_official.CLIP_SPECIAL,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
    },
}
# the vocabularies are those of the tests: the special ids follow from them, the tables keep their size
_SPECIAL = {name: tiny_official.CONFIG["text-codec"][name] for name in ("bert_special", "gpt2_special")}
SIZES: dict[str, tuple[dict[str, dict[str, Any]], dict[str, Any]]] = {
    "full": ({"diffuser": FULL_SIZE, "image-codec": AUTOKL, "text-codec": {**OPTIMUS, **_SPECIAL}}, CLIP),
    "tiny": (tiny_official.CONFIG, tiny_official.CLIP),
}


class Random(Mapping[str, Tensor]):
    """Random numbers in place of a state dict's, made when they are asked for; the same for the same name."""

    def __init__(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        self.dtype = dtype
        self.numbers = (torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) / 50).to(dtype)

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        if len(shape) == 1 and name.endswith("weight"):  # of norms
            return torch.ones(shape, dtype=self.dtype)
        if len(shape) == 4 and name.endswith("attn.bias"):  # Optimus' causal masks
            return torch.ones(shape, dtype=self.dtype).tril()
        count, begin = torch.Size(shape).numel(), zlib.crc32(TIED.get(name, name).encode()) % 1000
        repeats = (begin + count) // len(self.numbers) + 1
        return self.numbers.repeat(repeats)[begin : begin + count].reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def empty_pipeline(config: Mapping[str, Mapping[str, Any]], clip: Mapping[str, Any]) -> VersatileDiffusionPipeline:
    """Every network on the meta device."""
    with init_empty_weights(include_buffers=False):
        unet = MultiFlowUNet(**diffuser_config(config["diffuser"]))
        codec = AutoKLCodec(autokl_config(config["image-codec"]))
    codecs = {"image": codec, "text": empty_optimus(config["text-codec"])}
    encoders = {"text": empty_tower(CLIPTextContext, clip), "image": empty_tower(CLIPImageContext, clip)}
    return VersatileDiffusionPipeline(unet, ModalityBank(codecs, encoders), SCHEDULERS["ddim"]())


def write(folder: Path, size: str, dtype: torch.dtype) -> None:
    """Writes `official/` and `diffusers/`, which hold the same weights, tensor by tensor."""
    config, clip = SIZES[size]
    official, clip_folder = folder / "official", folder / "official" / "clip-vit-large-patch14"
    clip_folder.mkdir(parents=True)
    states = official_states(empty_pipeline(config, clip))
    files = {"vd-four-flow-v1-0": ["diffuser"], "kl-f8": ["image-codec"], "optimus-vae": ["text-codec"]}
    files["clip-vit-large-patch14/model"] = ["text-encoder", "image-encoder"]
    for file, parts in files.items():
        state = {name: tensor for part in parts for name, tensor in states[part].items()}
        write_safetensors(official / f"{file}.safetensors", Random(state, dtype))
    (official / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    tiny_official.write_vocabularies(official)
    CLIPConfig(**clip).save_pretrained(clip_folder)
    tiny_official.write_clip_tokenizer(clip_folder)
    convert(VersatileDiffusionPipeline.from_official(official, dtype), folder / "diffusers", to="diffusers")
