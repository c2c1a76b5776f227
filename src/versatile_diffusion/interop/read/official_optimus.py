"""Optimus in the official layout (`optimus-vae.pth`, `vae.text.*` of the full model): names in both directions,
loading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor

from versatile_diffusion.modalities.text.optimus import Optimus
from versatile_diffusion.printable import shown

# official prefix -> ours; the first match is used
PREFIXES = (
    ("encoder.linear.", "encoder.to_moments."),
    ("encoder.", "encoder.bert."),
    ("decoder.transformer.linear.", "decoder.to_memory."),
    ("decoder.transformer.linear_emb.", "decoder.to_embedding."),
    ("decoder.transformer.", "decoder.gpt2."),
)
TIED = {"decoder.lm_head.weight": "decoder.transformer.wte.weight"}
OURS_ALONE = ("latent_mean", "latent_std")  # 0 and 1: official latents are not normalised
_CAUSAL_MASK = re.compile(r"decoder\.transformer\.h\.(\d+)\.attn\.(masked_)?bias")

_BERT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "initializer_range",
)
_GPT2_FIELDS = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
    "layer_norm_epsilon",
    "initializer_range",
)
_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "embd_pdrop", "attn_pdrop", "resid_pdrop")

FULL_SIZE: dict[str, Any] = {
    "latent_size": 768,
    "encoder": {"vocab_size": 28996, "layer_norm_eps": 1e-12},
    "decoder": {"vocab_size": 50260},
    "bert_special": {"pad": 0, "cls": 101, "sep": 102},
    "gpt2_special": {"pad": 50257, "bos": 50258, "eos": 50259},
}


def ours(name: str) -> str | None:
    """Convert an official entry name to ours; None for entries we do not have (tied head, causal masks)."""
    if name in TIED or _CAUSAL_MASK.fullmatch(name):
        return None
    for theirs, here in PREFIXES:
        if name.startswith(theirs):
            return here + name.removeprefix(theirs)
    raise ValueError(f"{shown(name)} is not an Optimus entry; official names begin with encoder. or decoder.")


def official_names(names: Iterable[str]) -> dict[str, str]:
    """Map our names to official ones, without our own buffers."""
    table = {}
    for name in names:
        if name in OURS_ALONE:
            continue
        theirs, here = next(pair for pair in PREFIXES if name.startswith(pair[1]))
        table[name] = theirs + name.removeprefix(here)
    return table


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert an official state dict to our names."""
    return {name: value for key, value in state.items() if (name := ours(key)) is not None}


def to_official(model: Optimus) -> dict[str, Tensor]:
    """Return the official state dict of a model, with tied head and causal masks."""
    state = model.state_dict()
    official = {theirs: state[name] for name, theirs in official_names(state).items()}
    official |= {head: official[table] for head, table in TIED.items()}
    config = model.decoder.gpt2.config
    for layer in range(config.n_layer):
        mask = torch.ones(config.n_positions, config.n_positions, device=model.device, dtype=model.dtype).tril()
        official[f"decoder.transformer.h.{layer}.attn.bias"] = mask[None, None]
    return official


def unlike_official(model: Optimus) -> str:
    """Describe what official files cannot hold of an Optimus; empty if nothing."""
    if model.config.decoder_bias:
        return "biases in the decoder's latent projections"
    if bool(model.latent_mean.any()) or not bool((model.latent_std == 1).all()):
        return "latents normalised by mean and deviation"
    return "" if model.tokens.encoder is not model.tokens.decoder else "one tokenizer for both sides"


def published_config(model: Optimus) -> dict[str, Any]:
    """Return the official configuration of a model, as read by `optimus_config`."""
    config = model.config
    bert, gpt2 = config.encoder_ids, config.decoder_ids
    return {
        "latent_size": config.latent_size,
        "encoder": dict(config.bert),
        "decoder": dict(config.gpt2),
        "bert_special": {"pad": bert["pad"], "cls": bert["begin"], "sep": bert["end"]},
        "gpt2_special": {"pad": gpt2["pad"], "bos": gpt2["begin"], "eos": gpt2["end"]},
    }


def optimus_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Optimus` for an official configuration with `encoder`, `decoder`, `latent_size`,
    `bert_special` (pad, cls, sep) and `gpt2_special` (pad, bos, eos)."""
    bert_ids, gpt2_ids = config["bert_special"], config["gpt2_special"]
    no_dropout = dict.fromkeys(_DROPOUTS, 0.0)  # for inference; training code sets its own
    bert = {k: config["encoder"][k] for k in _BERT_FIELDS if k in config["encoder"]}
    gpt2 = {k: config["decoder"][k] for k in _GPT2_FIELDS if k in config["decoder"]}
    return {
        "bert": bert | {k: v for k, v in no_dropout.items() if k in _BERT_FIELDS},
        "gpt2": gpt2 | {k: v for k, v in no_dropout.items() if k in _GPT2_FIELDS},
        "latent_size": config["latent_size"],
        "encoder_ids": {"pad": bert_ids["pad"], "begin": bert_ids["cls"], "end": bert_ids["sep"]},
        "decoder_ids": {"pad": gpt2_ids["pad"], "begin": gpt2_ids["bos"], "end": gpt2_ids["eos"]},
    }


def check_tied(state: Mapping[str, Tensor], every: int = 1) -> None:
    """Raise ValueError if the head differs from the embeddings; compares every `every`-th row."""
    for head, table in TIED.items():
        if head in state and not torch.equal(state[head][::every], state[table][::every]):
            raise ValueError(f"{head} differs from {table}; in Optimus they are one table")


def empty_optimus(config: Mapping[str, Any]) -> Optimus:
    """Build Optimus on the meta device except for buffers, see `build_optimus`."""
    with init_empty_weights(include_buffers=False):
        return Optimus(**optimus_config(config)).eval()


def build_optimus(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Optimus:
    """Build Optimus with official weights in eval mode, without tokenizers (see `Optimus.set_tokenizers`).

    Args:
        config: as for `optimus_config`; `FULL_SIZE` belongs to the published weights.
        state: entries under their names in `optimus-vae.pth`.

    Raises:
        ValueError: missing or unknown entries, or an untied head.
    """
    check_tied(state)
    model = Optimus(**optimus_config(config))
    missing, unknown = model.load_state_dict(from_official(state), strict=False)
    missing = sorted(set(missing) - set(OURS_ALONE))
    if missing or unknown:
        raise ValueError(
            f"official Optimus weights lack {missing or 'nothing'} and have unknown {unknown or 'nothing'}"
        )
    return model.eval()
