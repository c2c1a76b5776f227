"""CLIP's context encoders, by their own laws."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_official
import torch
from PIL import Image

from versatile_diffusion.interop.read.clip import tower_config
from versatile_diffusion.modalities.encoders.clip import CLIPImageContext, CLIPTextContext, load_tokenizer

LENGTH = tiny_official.CLIP["text_config"]["max_position_embeddings"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> CLIPTextContext:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_official.write_clip_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIPTextContext(tower_config("text_config", tiny_official.CLIP), load_tokenizer(folder)).eval()


@pytest.fixture(scope="module")
def image() -> CLIPImageContext:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIPImageContext(tower_config("vision_config", tiny_official.CLIP)).eval()


def left_third(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 3, size[1]))
    return mask


def test_text_tokens(text):
    context = text.encode(["a cat", ""])
    assert context.shape == (2, LENGTH, tiny_official.WIDTH)
    special = tiny_official.CLIP_SPECIAL
    ids = text.tokenizer(["ab"])["input_ids"][0]
    assert ids == [special["bos_token_id"], 0, 26 + 1, special["eos_token_id"]]
    padded = torch.tensor([ids + [special["pad_token_id"]] * (LENGTH - len(ids))])
    torch.testing.assert_close(text(padded), text.encode(["ab"]))
    norms = context.norm(dim=-1)  # the token that is pooled, the first end, has norm 1
    torch.testing.assert_close(norms[0, 1 + len("acat")], torch.tensor(1.0))
    torch.testing.assert_close(norms[1, 1], torch.tensor(1.0))


def test_a_text_that_just_fits_and_one_too_long(text):
    longest = " ".join("a" * (LENGTH - 2))
    assert text.encode([longest]).shape[1] == LENGTH
    with pytest.raises(ValueError, match=f"prompt too long: {LENGTH - 1} tokens, at most {LENGTH - 2} are allowed"):
        text.encode(["fine", longest + " a"])


def test_text_has_no_mask_and_needs_a_tokenizer(text):
    torch.testing.assert_close(text.encode(["a"], [None]), text.encode(["a"]))
    with pytest.raises(ValueError, match="text does not support masks"):
        text.encode(["a"], [Image.new("L", (2, 2))])
    with pytest.raises(ValueError, match="without a tokenizer"):
        CLIPTextContext(tower_config("text_config", tiny_official.CLIP)).encode(["a"])


def test_saving_keeps_the_tokenizer(text, image, tmp_path):
    for name, encoder, values in (("text", text, ["a cat"]), ("image", image, [Image.new("RGB", (9, 9), "teal")])):
        encoder.save_pretrained(tmp_path / name)
        again = type(encoder).from_pretrained(tmp_path / name)
        weights = encoder.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())
        torch.testing.assert_close(again.encode(values), encoder.encode(values))  # sums round by memory alignment
        halved = type(encoder).from_pretrained(tmp_path / name, dtype=torch.float16)
        assert halved.dtype == torch.float16
        torch.testing.assert_close(halved.encode(values).float(), encoder.encode(values), rtol=0.02, atol=0.02)


def test_a_folder_without_tokenizer(tmp_path):
    assert load_tokenizer(tmp_path) is None


def test_token_0_has_norm_1(image, picture):
    context = image.encode([picture, picture.rotate(90, expand=True)])
    assert context.shape == (2, 1 + 4, tiny_official.WIDTH)
    torch.testing.assert_close(context[:, 0].norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize("size", [(32, 32), (100, 60), (60, 100), (5, 7), (3000, 1), (1, 3000)])
def test_preprocessing_takes_any_size(image, size):
    pixels = image.preprocess([Image.new("RGB", size, (255, 0, 128))])
    assert pixels.shape == (1, 3, 32, 32)
    torch.testing.assert_close(pixels, pixels[..., :1, :1].expand_as(pixels))  # one colour stays one colour


def test_masks(image, picture):
    plain = image.encode([picture, picture])
    torch.testing.assert_close(image.encode([picture] * 2, [np.ones((3, 3)), None]), plain)
    black = image.encode([picture], [Image.new("L", picture.size, 0)])
    assert black.abs().max() == 0
    as_picture = left_third(picture.size)
    levels = np.asarray(as_picture)
    masked = image.encode([picture], [as_picture])
    assert not torch.allclose(masked, plain[:1])
    torch.testing.assert_close(image.encode([picture], [levels]), masked)
    torch.testing.assert_close(image.encode([picture], [levels / 255]), masked)
    torch.testing.assert_close(image.encode([picture], [levels > 0]), masked)
    # patches that are masked altogether say nothing; those that are kept say something
    assert masked[0, 2].abs().max() == masked[0, 4].abs().max() == 0
    assert masked[0, 1].abs().max() > 0


def test_a_mask_shaped_like_its_picture_is_cropped_like_it(image):
    """The outer quarters of a wide picture are not seen, so it does not matter what a mask says about them."""
    wide = Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 80, 3), dtype=np.uint8))
    mask = np.ones((40, 80))
    mask[:, :20] = mask[:, 60:] = 0
    torch.testing.assert_close(image.encode([wide], [mask]), image.encode([wide]))
    square = np.ones((40, 40))
    square[:, :20] = 0  # of another shape: it covers the square that is seen
    assert image.encode([wide], [square])[0, 1].abs().max() == 0


def test_mask_mistakes(image, picture):
    with pytest.raises(ValueError, match="1 masks for 2 images"):
        image.encode([picture, picture], [picture.convert("L")])
    with pytest.raises(ValueError, match=r"got an array of \(2, 2, 3\)"):
        image.encode([picture], [np.zeros((2, 2, 3))])


def test_both_encoders_compare_in_clips_own_space(text, image):
    pictures = [Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")]
    seen = image.compare(pictures)
    torch.testing.assert_close(seen, image.encode(pictures)[:, 0])  # token 0 has norm 1 already
    said = text.compare(["a cat", "ab"])
    torch.testing.assert_close(said[0], text.encode(["a cat"])[0, 1 + len("acat")])  # where the pooled token is
    assert text.space == image.space
    assert said.shape == seen.shape
    torch.testing.assert_close(said.norm(dim=-1), torch.ones(2))
    long = "cat " * 3 * LENGTH
    torch.testing.assert_close(text.compare([long]), text.compare([long + "dog"]))
