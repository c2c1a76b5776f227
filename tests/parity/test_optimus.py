"""Optimus against the original: latents, logits, what it writes, and the names of the full-size weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.conftest import read_json, relative
from versatile_diffusion.interop.official import build_optimus
from versatile_diffusion.interop.read.official_optimus import (
    FULL_SIZE,
    OURS_ALONE,
    from_official,
    official_names,
    optimus_config,
    ours,
    to_official,
)
from versatile_diffusion.modalities.text.optimus import Optimus, SpecialIds, remove_duplicate_word
from versatile_diffusion.modalities.text.optimus.generate import Sampling, filter_logits, generate

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def vectors(reference: Path) -> dict[str, Tensor]:
    return load_file(reference / "optimus" / "optimus.safetensors")


@pytest.fixture(scope="module")
def weights(reference: Path) -> dict[str, Tensor]:
    return load_file(reference / "optimus" / "weights.safetensors")


@pytest.fixture(scope="module")
def optimus(reference: Path, weights: dict[str, Tensor]) -> Optimus:
    return build_optimus(read_json(reference / "optimus" / "config.json"), weights)


@pytest.fixture(scope="module")
def special(optimus: Optimus) -> SpecialIds:
    return SpecialIds(**optimus.config.decoder_ids)


@torch.no_grad()
def test_latents(optimus: Optimus, vectors: dict[str, Tensor]) -> None:
    posterior = optimus.posterior(vectors["bert.ids"])
    assert relative(posterior.mean, vectors["latent.mu"]) < TOLERANCE
    assert relative(posterior.logvar, vectors["latent.logvar"]) < TOLERANCE
    assert torch.equal(optimus.raw(posterior.mean), posterior.mean), "official latents are used as they are"


@torch.no_grad()
def test_bert(optimus: Optimus, vectors: dict[str, Tensor]) -> None:
    ids, mask = vectors["bert.ids"], vectors["bert.mask"].bool()
    found = optimus.encoder.bert(input_ids=ids, attention_mask=mask.long())
    assert relative(found.pooler_output, vectors["bert.pooled"]) < TOLERANCE
    assert relative(found.last_hidden_state[mask], vectors["bert.sequence"][mask]) < TOLERANCE


@torch.no_grad()
def test_decoder(optimus: Optimus, vectors: dict[str, Tensor], special: SpecialIds) -> None:
    decoder, ids, latent = optimus.decoder, vectors["gpt2.ids"], vectors["gpt2.latent"]
    assert relative(decoder.to_memory(latent), vectors["gpt2.memory"]) < TOLERANCE
    state = decoder.start(latent)
    assert relative(state.embedding, vectors["gpt2.emb"]) < TOLERANCE
    hidden = decoder.hidden(ids, state)
    assert relative(hidden, vectors["gpt2.hidden_last"]) < TOLERANCE
    first = state.cache.layers[0]
    assert relative(torch.stack([first.keys, first.values]), vectors["gpt2.present0"]) < TOLERANCE
    logits = decoder(ids, latent)
    assert relative(logits, vectors["gpt2.logits"]) < TOLERANCE
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), ids[:, 1:], ignore_index=special.pad, reduction="none"
    )
    assert relative(loss.sum(1), vectors["gpt2.loss_sum"]) < TOLERANCE


@pytest.mark.parametrize(("name", "limit"), [("greedy.ids", 30), ("greedy8.ids", 8)])
def test_greedy(optimus: Optimus, vectors: dict[str, Tensor], special: SpecialIds, name: str, limit: int) -> None:
    written = generate(optimus.decoder, vectors["greedy.latent"], special, Sampling(0.0, max_length=limit))
    assert torch.equal(written, vectors[name])


def test_sampled(optimus: Optimus, vectors: dict[str, Tensor], special: SpecialIds) -> None:
    generators = [torch.Generator().manual_seed(900 + row) for row in range(len(vectors["greedy.latent"]))]
    written = generate(optimus.decoder, vectors["greedy.latent"], special, Sampling(1.0), generators)
    assert torch.equal(written, vectors["sampled.ids"])


def test_filter(vectors: dict[str, Tensor]) -> None:
    cases = [name for name in vectors if name.startswith("filter.k")]
    assert cases
    for name in cases:
        top_k, top_p = name.removeprefix("filter.k").split("_p")
        assert torch.equal(filter_logits(vectors["filter.logits"], int(top_k), float(top_p)), vectors[name]), name


def test_remove_duplicate_word(reference: Path) -> None:
    """The original fails on odd spaces, and leaks its marker when a text is all punctuation."""
    for pair in read_json(reference / "text_tools.json")["remove_duplicate_word"]:
        wanted = " ".join(pair["input"].split()) if "raises" in pair else pair["output"].removeprefix("<puncnext> ")
        assert remove_duplicate_word(pair["input"]) == wanted, pair


def test_names_both_ways(optimus: Optimus, weights: dict[str, Tensor]) -> None:
    back = to_official(optimus)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_full_size(manifest: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = Optimus(**optimus_config(FULL_SIZE))
    wanted = {
        name.removeprefix("vae.text."): tuple(shape)
        for name, shape in manifest["keys"].items()
        if name.startswith("vae.text.")
    }
    assert {name: tuple(value.shape) for name, value in to_official(model).items()} == wanted
    held = {name: here for name in wanted if (here := ours(name)) is not None}
    state = {name: value for name, value in model.state_dict().items() if name not in OURS_ALONE}
    assert official_names(state) == {here: name for name, here in held.items()}
    assert {held[name]: wanted[name] for name in held} == {name: tuple(value.shape) for name, value in state.items()}
    assert sum(p.numel() for p in model.parameters()) == manifest["parameter_counts"]["vae_text"]


def test_damaged_weights(reference: Path, weights: dict[str, Tensor]) -> None:
    config = read_json(reference / "optimus" / "config.json")
    lacking = {name: value for name, value in weights.items() if name != "decoder.transformer.ln_f.bias"}
    with pytest.raises(ValueError, match=r"lack.*ln_f\.bias"):
        build_optimus(config, lacking)
    with pytest.raises(ValueError, match="not an Optimus entry"):
        from_official({"other.weight": torch.zeros(1)})
    untied = weights | {"decoder.lm_head.weight": weights["decoder.lm_head.weight"] + 1}
    with pytest.raises(ValueError, match="one table"):
        build_optimus(config, untied)
