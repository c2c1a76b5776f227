"""Items in several modalities: encoded once, or drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import build_tiny_pipeline

from versatile_diffusion.training.diffuser import pairs as module
from versatile_diffusion.training.diffuser.pairs import Choices, Drawn, EncodedValues, Pairs

TEXTS = [["red apple", "an apple"], ["blue house"]]


@pytest.fixture(scope="module")
def bank():
    return build_tiny_pipeline().bank


@pytest.fixture
def values():
    return {"image": [[Image.new("RGB", (16, 16), name)] for name in ("red", "blue")], "text": TEXTS}


def test_one_value_is_encoded_once_and_several_are_drawn(bank, values) -> None:
    pairs = Pairs.encode(values, values, bank)
    assert pairs.count == 2
    assert isinstance(pairs.latents["image"], EncodedValues)
    assert isinstance(pairs.tokens["text"], Drawn)
    items = torch.tensor([1, 0])
    drawn = pairs.latents["image"].draw(items, torch.Generator())
    whole = bank.codecs["image"].encode([v[0] for v in values["image"]])
    assert torch.allclose(drawn, whole.flip(0), atol=2e-3)


def test_drawing_reaches_every_value_of_an_item_and_no_other(bank, values) -> None:
    tokens = Pairs.encode(values, values, bank).tokens["text"]
    generator = torch.Generator().manual_seed(0)
    drawn = tokens.draw(torch.zeros(32, dtype=torch.long), generator)
    allowed = bank.encoders["text"].encode(TEXTS[0])
    distance = torch.cdist(drawn.flatten(1), allowed.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert float(distance.min(1).values.max()) < 1e-3
    assert len(set(distance.argmin(1).tolist())) == 2


def test_several_values_can_be_encoded_ahead_and_are_drawn_alike(bank, values, tmp_path: Path, monkeypatch) -> None:
    values = {**values, "text": [*TEXTS[:1], ["an apple", "a house", "a blue house"]]}
    ahead = Pairs.encode(values, values, bank, tmp_path, ahead=True)
    tokens, drawn = ahead.tokens["text"], Pairs.encode(values, values, bank).tokens["text"]
    assert isinstance(tokens, Choices)
    assert len(tokens.rows) == 4  # "an apple" is encoded once
    items = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1])
    one, other = (side.draw(items, torch.Generator().manual_seed(5)) for side in (tokens, drawn))
    assert torch.allclose(one, other, atol=5e-3)
    assert [numbers.tolist() for numbers in tokens.alike] == [[0, 1]]
    monkeypatch.setattr(module, "ENCODE_BATCH", 0)  # encoding again would fail now
    again = Pairs.encode(values, values, bank, tmp_path, ahead=True).tokens["text"]
    assert torch.equal(one, again.draw(items, torch.Generator().manual_seed(5)))


def test_what_is_cached_is_read_again_and_depends_on_the_weights(bank, values, tmp_path: Path, monkeypatch) -> None:
    first = Pairs.encode(values, values, bank, tmp_path)
    monkeypatch.setattr(module, "ENCODE_BATCH", 0)  # encoding again would fail now
    second = Pairs.encode(values, values, bank, tmp_path)
    items = torch.tensor([0, 1])
    assert torch.equal(*(p.tokens["image"].draw(items, torch.Generator()) for p in (first, second)))
    other = build_tiny_pipeline().bank
    with torch.no_grad():
        other.encoders["image"].to_local.bias += 1
    with pytest.raises(ValueError, match="zero"):
        Pairs.encode(values, values, other, tmp_path)


def test_numbers_of_items_must_agree(bank, values) -> None:
    with pytest.raises(ValueError, match="same number"):
        Pairs.encode(values | {"text": TEXTS[:1]}, values, bank)
