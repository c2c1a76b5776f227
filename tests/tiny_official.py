"""The published files of 2023 at the smallest size, with random weights and made-up vocabularies."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPConfig, CLIPModel

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.names.autokl import autokl_config, autokl_rules
from versatile_diffusion.interop.names.keymap import to_official
from versatile_diffusion.interop.official import diffuser_config
from versatile_diffusion.interop.read.official_optimus import optimus_config
from versatile_diffusion.interop.read.official_optimus import to_official as optimus_to_official
from versatile_diffusion.modalities.text.optimus import Optimus

WIDTH = 32  # of contexts and of text latents
LEVELS = 2  # of the image codec
SPACE = "\u0120"  # how byte-level vocabularies write it
WORDS = 2 * len(ascii_lowercase)
CLIP_SPECIAL = {"bos_token_id": WORDS, "eos_token_id": WORDS + 1, "pad_token_id": WORDS + 1}
_CLIP_TOWER = {"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_act": "quick_gelu"}

CONFIG: dict[str, dict[str, Any]] = {
    "diffuser": {
        "image_channels": 4,
        "text_channels": WIDTH,
        "context_dim": WIDTH,
        "model_channels": 32,
        "channel_mult": [1, 2],
        "num_res_blocks": [1, 1],
        "with_attn": [True, False],
        "second_dim": [4, 4],
        "num_heads": 2,
    },
    "image-codec": {
        "embed_dim": 4,
        "ddconfig": {
            "double_z": True,
            "z_channels": 4,
            "resolution": 16,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [],
        },
    },
    "text-codec": {
        "latent_size": WIDTH,
        "encoder": {
            "vocab_size": 40,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 80,
        },
        "decoder": {"vocab_size": WORDS + 3, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
        "bert_special": {"pad": 0, "cls": 2, "sep": 3},
        "gpt2_special": {"pad": WORDS, "bos": WORDS + 1, "eos": WORDS + 2},
    },
}
CLIP: dict[str, Any] = {
    "projection_dim": WIDTH,
    "text_config": {
        **_CLIP_TOWER,
        **CLIP_SPECIAL,
        "hidden_size": 16,
        "vocab_size": WORDS + 2,
        "max_position_embeddings": 12,
    },
    "vision_config": {**_CLIP_TOWER, "hidden_size": 24, "image_size": 32, "patch_size": 16},
}


def write_clip_tokenizer(folder: Path) -> None:
    """CLIP's two vocabulary files for words of single letters."""
    letters = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase)]
    write_bpe(folder, [*letters, "<|startoftext|>", "<|endoftext|>"])


def write_bpe(folder: Path, tokens: list[str], stem: str = "") -> None:
    """`vocab.json` and `merges.txt` without any merge."""
    ids = {token: index for index, token in enumerate(tokens)}
    (folder / f"{stem}vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / f"{stem}merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def write_vocabularies(folder: Path) -> None:
    """Those of Optimus: BERT's and GPT-2's."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *ascii_lowercase]
    (folder / "bert-base-cased-vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    write_bpe(folder, [*ascii_lowercase, *(SPACE + letter for letter in ascii_lowercase)], "gpt2-")


def official_states() -> dict[str, dict[str, torch.Tensor]]:
    """State dicts of the diffuser, the image codec and the text codec under the published names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = MultiFlowUNet(**diffuser_config(CONFIG["diffuser"]))
        for weight in unet.parameters():  # some begin at zero, and would hide mistakes
            if weight.abs().sum() == 0:
                torch.nn.init.normal_(weight, std=0.05)
        vae = AutoencoderKL(**autokl_config(CONFIG["image-codec"]))
        optimus = Optimus(**optimus_config(CONFIG["text-codec"]))
    return {
        "diffuser": to_official(unet.state_dict()),
        "image-codec": to_official(vae.state_dict(), autokl_rules(LEVELS)),
        "text-codec": optimus_to_official(optimus),
    }


def write_clip(folder: Path) -> None:
    """CLIP as transformers saves it, with its tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        CLIPModel(CLIPConfig(**CLIP)).save_pretrained(folder)
    write_clip_tokenizer(folder)


def write_official(folder: Path) -> Path:
    """The whole file set, the diffuser's checkpoint holding the diffuser alone."""
    states = official_states()
    torch.save(states["diffuser"], folder / "vd-four-flow-v1-0.pth")
    torch.save(states["image-codec"], folder / "kl-f8.pth")
    torch.save(states["text-codec"], folder / "optimus-vae.pth")
    write_vocabularies(folder)
    write_clip(folder / "clip-vit-large-patch14")
    return folder
