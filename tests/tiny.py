"""A whole model of a few thousand weights, all of them random: the real parts at the smallest size that they have."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities.audio.encoder import DualAudioEncoder
from versatile_diffusion.modalities.audio.vae import AudioVAE
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.encoders.dual import DualImageEncoder, DualTextEncoder
from versatile_diffusion.modalities.image.lite_vae import LiteVAE
from versatile_diffusion.modalities.text.optimus import Optimus
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.sampling.schedulers import SCHEDULERS

ALL = ("image", "text", "audio")
SIDE = 16  # pixels of a picture
LATENT = 32  # numbers of a text's latent
WORDS = "a an the red green blue apple pear house cat dog with and in style noto of two small big"
STYLES = {"noto": "noto style", "fluent": "fluent style"}


def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE over a handful of words; pad 0, unknown 1, begin 2, end 3."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS] * 3, trainer)
    return tokenizer


def tiny_optimus(tokenizer: Tokenizer) -> Optimus:
    size = {"vocab_size": tokenizer.get_vocab_size()}
    layer = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"pad": 0, "begin": 2, "end": 3}
    codec = Optimus(
        bert=size | layer | {"max_position_embeddings": 32},
        gpt2=size | {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16},
        latent_size=LATENT,
        encoder_ids=ids,
        decoder_ids=ids,
        encoder_limit=24,
        max_length=8,
    )
    return codec.set_tokenizers(tokenizer, tokenizer)


def tiny_unet(
    latent: int,
    context: int,
    data: tuple[str, ...] = ("image", "text"),
    contexts: tuple[str, ...] = ("image", "text"),
) -> MultiFlowUNet:
    """A diffuser of two levels, for text latents of `latent` numbers and context tokens of `context`."""
    data_streams = {"image": {"channels": 4}, "text": {"width": latent, "positions": 4}, "audio": {"channels": 16}}
    return MultiFlowUNet(
        data_streams={name: data_streams[name] for name in data},
        context_streams={name: {"width": context} for name in contexts},
        width=16,
        multipliers=(1, 2),
        depth=1,
        attends=(True, False),
        heads=2,
        norm_groups=4,
    )


def build_tiny_pipeline(
    data: tuple[str, ...] = ("image", "text"), contexts: tuple[str, ...] = ("image", "text")
) -> VersatileDiffusionPipeline:
    """A pipeline with the streams, codecs and context encoders named; the same weights every time."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = tiny_unet(LATENT, 192, data, contexts)
        for weight in unet.parameters():  # some begin at zero, and would hide mistakes
            if weight.abs().sum() == 0:
                torch.nn.init.normal_(weight, std=0.05)
        codecs: dict[str, Any] = {"image": LiteVAE(widths=(16, 16), sample_size=SIDE), "text": tiny_optimus(tokenizer)}
        texts = DualTextEncoder(vocabulary=tokenizer.get_vocab_size(), depth=1, heads=2)
        texts.tokenizer = tokenizer
        encoders: dict[str, Any] = {"image": DualImageEncoder(widths=(8, 8, 16), sample_size=SIDE), "text": texts}
        codecs["audio"], encoders["audio"] = AudioVAE((4, 4)), DualAudioEncoder((4, 4, 4))
    bank = ModalityBank({name: codecs[name] for name in data}, {name: encoders[name] for name in contexts})
    pipe = VersatileDiffusionPipeline(unet.eval(), bank.eval(), SCHEDULERS["ddim"](), styles=STYLES)
    pipe.set_progress_bar_config(disable=True)
    return pipe
