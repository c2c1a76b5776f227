"""The small context encoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from versatile_diffusion.modalities.encoders.dual import DualImageEncoder, DualTextEncoder

TEXTS = ["A red apple", "", "dog"]


@pytest.fixture(scope="module")
def image() -> DualImageEncoder:
    torch.manual_seed(0)
    return DualImageEncoder(widths=(4, 8, 8)).eval()


@pytest.fixture(scope="module")
def text() -> DualTextEncoder:
    torch.manual_seed(0)
    encoder = DualTextEncoder(depth=1).eval()
    encoder.tokenizer = Tokenizer.from_file(str(Path(__file__).parents[2] / "data" / "emoji" / "tokenizer.json"))
    return encoder


def test_tokens_of_a_picture_have_the_norm_of_the_scale(image: DualImageEncoder, picture: Image.Image) -> None:
    tokens = image.encode([picture])
    assert tokens.shape == (1, 65, 192)
    assert torch.allclose(tokens.norm(dim=-1), torch.full((1, 65), 192**0.5), rtol=1e-4)


def test_token_0_is_the_shared_embedding(image: DualImageEncoder, text: DualTextEncoder, picture: Image.Image) -> None:
    for encoder, values in ((image, [picture]), (text, TEXTS)):
        embedding = encoder.embed(values)
        assert torch.allclose(embedding.concept.norm(dim=1), torch.ones(len(values)), rtol=1e-4)
        assert torch.allclose(embedding.style.norm(dim=1), torch.ones(len(values)), rtol=1e-4)
        both = torch.cat([embedding.concept, embedding.style], dim=1)
        assert torch.allclose(encoder.encode(values)[:, 0], both * 96**0.5, rtol=1e-4, atol=1e-5)


def test_padding_is_zero_and_changes_nothing(text: DualTextEncoder) -> None:
    tokens, counts = text.encode(TEXTS), (text.ids(TEXTS) > 0).sum(dim=1)
    assert tokens.shape == (3, 25, 192)
    assert counts.tolist()[1:] == [1, int((text.ids(["dog"]) > 0).sum())]
    for row, count in zip(tokens, counts, strict=True):
        assert (row[1 + count :] == 0).all()
        assert (row[: 1 + count].norm(dim=-1) > 1).all()
    assert torch.allclose(text(text.ids(["dog"])[:, : counts[2]]).tokens(1.0)[0, 0], tokens[2, 0] / 192**0.5, atol=1e-5)


def test_case_does_not_count(text: DualTextEncoder) -> None:
    assert torch.equal(text.encode(["A Red APPLE"]), text.encode(["a red apple"]))


def test_a_text_that_is_too_long_is_refused(text: DualTextEncoder) -> None:
    with pytest.raises(ValueError, match=r"has \d+ tokens; at most 24"):
        text.encode(["dog " * 30])


def test_texts_take_no_mask(text: DualTextEncoder) -> None:
    with pytest.raises(ValueError, match="mask"):
        text.encode(["dog"], masks=[np.ones((8, 8))])


def test_a_mask_of_everything_changes_nothing(image: DualImageEncoder, picture: Image.Image) -> None:
    masks = [np.ones((5, 7)), Image.new("L", (20, 20), 255)]
    assert torch.allclose(image.encode([picture] * 2, masks), image.encode([picture] * 2), atol=1e-4)


def test_a_mask_silences_cells_and_the_global_token_follows(image: DualImageEncoder, picture: Image.Image) -> None:
    mask = np.zeros((16, 16))
    mask[:, :8] = 1
    whole, half = image.encode([picture, picture], [None, mask])
    grid = half[1:].unflatten(0, (8, 8))
    assert (grid[:, 4:] == 0).all()
    assert torch.allclose(grid[:, :4], whole[1:].unflatten(0, (8, 8))[:, :4], atol=1e-4)
    assert not torch.allclose(half[0], whole[0])


def test_wrong_masks_are_refused(image: DualImageEncoder, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match="2 masks for 1"):
        image.encode([picture], [None, None])
    with pytest.raises(ValueError, match="shape \(H, W\)"):
        image.encode([picture], [np.ones((4, 4, 3))])


def test_saving_and_loading(
    image: DualImageEncoder, text: DualTextEncoder, picture: Image.Image, tmp_path: Path
) -> None:
    image.save_pretrained(tmp_path / "image")
    text.save_pretrained(tmp_path / "text")
    assert torch.equal(DualImageEncoder.from_pretrained(tmp_path / "image").encode([picture]), image.encode([picture]))
    again = DualTextEncoder.from_pretrained(tmp_path, subfolder="text")
    assert torch.equal(again.encode(TEXTS), text.encode(TEXTS))


def test_an_encoder_without_a_tokenizer_says_so() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        DualTextEncoder(depth=1).encode(["dog"])
