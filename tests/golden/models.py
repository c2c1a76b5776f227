"""Models for golden vectors: every part at its smallest, with weights that no release of a library can move."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import torch
from PIL import Image
from tiny import tiny_unet
from torch import Tensor, nn

from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.encoders.clip import CLIPImageContext, CLIPTextContext, load_tokenizer
from versatile_diffusion.modalities.encoders.dual import DualImageEncoder, DualTextEncoder
from versatile_diffusion.modalities.image.autokl import AutoKLCodec
from versatile_diffusion.modalities.image.lite_vae import LiteVAE
from versatile_diffusion.modalities.text.optimus import Optimus
from versatile_diffusion.modalities.text.optimus.tokens import official_tokenizers
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.sampling.schedulers import SCHEDULERS

WIDTH, LATENT, SIDE = 16, 32, 16
SPACE, START, END = "\u0120", "<|startoftext|>", "<|endoftext|>"
MERGES = ("c a", "ca t", "r e", "re d", "h a", "ha t")
TOWER = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "quick_gelu"}


def numbers(name: str, *shape: int) -> Tensor:
    """Numbers of mean 0 and variance 1 that depend on the name alone: raw bits of PCG64, a stream that numpy promises
    to keep, spread evenly (so there is no method of drawing that could change)."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    even = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1
    return torch.from_numpy(even * 3**0.5).float().reshape(shape)


def picture() -> np.ndarray:
    """A raw picture (40, 56, 3) of uint8: a slope of colours with noise, a hard edge, and a corner of fine stripes."""
    rows, columns = np.mgrid[:40, :56]
    slope = np.stack([rows * 6, columns * 4, 255 - rows * 3 - columns * 2], axis=-1)
    noise = np.random.PCG64(7).random_raw(slope.size).reshape(slope.shape) >> np.uint64(58)
    levels = (slope + noise.astype(np.int64)).clip(0, 255).astype(np.uint8)
    levels[10:30, 20:24] = (250, 10, 30)
    levels[28:, 40::2] = 0
    return levels


def filled(module: nn.Module, name: str) -> nn.Module:
    """The module with all its numbers set: matrices of variance 1 / fan in, norms near 1, the rest near 0."""
    with torch.no_grad():
        for key, value in sorted(module.state_dict().items()):
            if not value.is_floating_point():
                continue
            drawn = numbers(f"{name}.{key}", *value.shape)
            if value.ndim > 1:
                value.copy_(drawn / math.prod(value.shape[1:]) ** 0.5)
            else:
                value.copy_(0.1 * drawn + float(key.endswith(("weight", "var", "std"))))
    return module.eval()


@dataclass(frozen=True)
class Models:
    """What the golden vectors are made with."""

    pipe: VersatileDiffusionPipeline
    dual_image: DualImageEncoder
    dual_text: DualTextEncoder
    lite_vae: LiteVAE

    @property
    def clip_image(self) -> CLIPImageContext:
        return self.pipe.bank.encoders["image"]

    @property
    def clip_text(self) -> CLIPTextContext:
        return self.pipe.bank.encoders["text"]

    @property
    def autokl(self) -> AutoKLCodec:
        return self.pipe.bank.codecs["image"]

    @property
    def optimus(self) -> Optimus:
        return self.pipe.bank.codecs["text"]


def build(folder: Path) -> Models:
    """All models; `folder` gets the vocabularies."""
    optimus = _optimus(folder)
    text = CLIPTextContext(
        TOWER
        | {"hidden_size": 16, "projection_dim": WIDTH, "max_position_embeddings": 12, "vocab_size": 64}
        | {"bos_token_id": 58, "eos_token_id": 59, "pad_token_id": 59},
        load_tokenizer(_clip_vocabulary(folder)),
    )
    image = CLIPImageContext(TOWER | {"hidden_size": 24, "projection_dim": WIDTH, "image_size": 32, "patch_size": 8})
    vae = {"block_out_channels": [8, 16], "down_block_types": ["DownEncoderBlock2D"] * 2, "norm_num_groups": 4}
    vae |= {"up_block_types": ["UpDecoderBlock2D"] * 2, "latent_channels": 4, "sample_size": SIDE}
    bank = ModalityBank(
        {"image": AutoKLCodec(vae | {"layers_per_block": 1}), "text": optimus}, {"image": image, "text": text}
    )
    unet = tiny_unet(LATENT, WIDTH)
    for name, part in {**bank.parts, "unet": unet}.items():
        filled(part, name)
    pipe = VersatileDiffusionPipeline(unet, bank.eval(), SCHEDULERS["ddim"]())
    pipe.set_progress_bar_config(disable=True)
    words = DualTextEncoder(vocabulary=64, limit=8, depth=1, heads=2)
    words.tokenizer = optimus.tokens.decoder
    small = DualImageEncoder(widths=(8, 8, 16), sample_size=SIDE)
    lite = LiteVAE(widths=(16, 16), sample_size=SIDE)
    return Models(pipe, filled(small, "dual-image"), filled(words, "dual-text"), filled(lite, "lite-vae"))


def _clip_vocabulary(folder: Path) -> Path:
    letters = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase)]
    merged = ["ca", "cat</w>", "re", "red</w>", "ha", "hat</w>"]
    merges = [f"{pair}</w>" if pair.endswith((" t", " d")) else pair for pair in MERGES]
    _write_bpe(folder / "clip", [*letters, *merged, START, END], merges)
    return folder / "clip"


def _optimus(folder: Path) -> Optimus:
    """BERT's and GPT-2's vocabulary of letters and a few words, in their published forms."""
    bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *ascii_lowercase, *(f"##{c}" for c in ascii_lowercase), "cat", "##hat"]
    (folder / "bert.txt").write_text("\n".join(bert) + "\n", encoding="utf-8")
    gpt2 = [*ascii_lowercase, *(SPACE + letter for letter in ascii_lowercase), "ca", "cat", "re", "red", "ha", "hat"]
    _write_bpe(folder / "gpt2", gpt2, MERGES)
    layer = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    codec = Optimus(
        bert=layer | {"vocab_size": len(bert), "max_position_embeddings": 32},
        gpt2={"vocab_size": 61, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16},
        latent_size=LATENT,
        encoder_ids={"pad": 0, "begin": 2, "end": 3},
        decoder_ids={"pad": 58, "begin": 59, "end": 60},
        encoder_limit=24,
        max_length=8,
    )
    files = (folder / "bert.txt", folder / "gpt2" / "vocab.json", folder / "gpt2" / "merges.txt")
    return codec.set_tokenizers(*official_tokenizers(*files))


def _write_bpe(folder: Path, tokens: list[str], merges: tuple[str, ...] | list[str]) -> None:
    folder.mkdir(exist_ok=True)
    ids = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def half_mask() -> Image.Image:
    """White keeps the left part; the edge is grey."""
    levels = np.zeros((40, 56), np.uint8)
    levels[:, :25], levels[:, 25:31] = 255, 128
    return Image.fromarray(levels)
