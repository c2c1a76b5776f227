"""Values as requests hold them, to raw values: uploads, data URLs and base64. Nothing is ever fetched, and no text is
taken for the name of a file."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor

from versatile_diffusion.controls import PARTS
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.image.files import one_sentence, open_image
from versatile_diffusion.numeric import check_finite
from versatile_diffusion.printable import brief, shown
from versatile_diffusion.records.record import record_of

DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
MOST_NUMBERS = 1 << 24
"""Of one tensor in a request."""


def bytes_of(text: Any, what: str) -> bytes:
    """What a data URL or base64 stands for.

    Raises:
        ValueError: it is neither; an address of the network or a name of a file among them.
    """
    if not isinstance(text, str):
        raise ValueError(f"{what} is {shown(text)}; it must be a data URL or base64")
    if ADDRESS.match(text):
        raise ValueError(f"{what} is {shown(brief(text, 60))}; addresses are not fetched, so send a data URL")
    url = DATA_URL.match(text)
    try:
        data = base64.b64decode(text[url.end() if url else 0 :], validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise ValueError(f"{what} is {shown(brief(text, 60))}; it must be a data URL or base64, and not empty")
    return data


def is_data_url(text: str) -> bool:
    """Whether a text is a data URL."""
    return DATA_URL.match(text) is not None


class Reader:
    """Raw values of a request.

    Args:
        pixels: of an image, at most.
    """

    def __init__(self, pixels: int):
        self.pixels = pixels

    def value(self, modality: str, given: Any, what: str) -> Any:
        """A raw value of a modality; texts stand for themselves.

        Raises:
            ValueError: there is no such modality, or it cannot be read.
        """
        known = MODALITIES.get(modality)
        if known is None:
            raise ValueError(f"modality is {shown(modality)}; it must be one of {', '.join(MODALITIES)}")
        if known.plain:
            if not isinstance(given, str):
                raise ValueError(f"{what} is {shown(given)}; it must be a text")
            return known.check(given)
        data = given if isinstance(given, bytes) else bytes_of(given, what)
        if known.grid:
            self.check_size(data, what)
        return known.check(data)

    def values(self, modality: str, given: Any, what: str) -> Any:
        """One value, or a list of them."""
        if isinstance(given, list):
            return [self.value(modality, one, what) for one in given]
        return self.value(modality, given, what)

    def check_size(self, data: bytes, what: str) -> None:
        """ValueError if an image has more pixels than are allowed, before any of them is decoded."""
        with one_sentence(what):
            with Image.open(BytesIO(data)) as opened:
                width, height = opened.size
            if width * height > self.pixels:
                raise ValueError(f"it has {width} x {height} pixels; at most {self.pixels:,} are allowed")

    def mask(self, given: Any, what: str = "mask") -> Image.Image:
        """A mask as an image, white where it acts. One with transparent parts acts there, as OpenAI's clients have it;
        of others, white acts."""
        data = given if isinstance(given, bytes) else bytes_of(given, what)
        self.check_size(data, what)
        image = open_image(data, what)
        if "A" in image.getbands() and np.asarray(image.getchannel("A")).min() < 255:
            return image.getchannel("A").point(lambda level: 255 - level)
        return image.convert("L")

    def part(self, given: Any, what: str) -> Any:
        """A part of the canvas: one that has a name, a box of four numbers, or a mask."""
        if given is None or isinstance(given, list | tuple | bytes):
            return self.mask(given, what) if isinstance(given, bytes) else given
        return PARTS[given] if isinstance(given, str) and given in PARTS else self.mask(given, what)

    def start(self, data: str, given: Any) -> Any:
        """What generation begins from: a raw value, or latents as safetensors."""
        if given is None:
            return None
        known = MODALITIES.get(data)
        if known is not None and known.plain:
            return given if not _holds_tensor(given) else tensor_of(bytes_of(given, "start"), "start")
        content = given if isinstance(given, bytes) else bytes_of(given, "start")
        return tensor_of(content, "start") if is_safetensors(content) else self.value(data, content, "start")


def _holds_tensor(text: str) -> bool:
    return is_data_url(text) and is_safetensors(bytes_of(text, "start"))


def is_safetensors(data: bytes) -> bool:
    """Whether bytes begin as safetensors do: the length of the header, then JSON."""
    return len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def tensor_of(data: bytes, what: str) -> Tensor:
    """The one tensor of a safetensors file.

    Raises:
        ValueError: it is none, holds several, has too many numbers or some that are not finite.
    """
    try:
        held = load(data)
    except Exception as error:  # safetensors has errors of its own for each mistake
        raise ValueError(f"{what} must be base64 of a safetensors file with one tensor") from error
    if len(held) != 1:
        raise ValueError(f"{what} holds {len(held)} tensors; it must hold one")
    tensor = next(iter(held.values()))
    if not tensor.is_floating_point() or not 0 < tensor.numel() <= MOST_NUMBERS:
        raise ValueError(f"{what} is {tuple(tensor.shape)} of {tensor.dtype}; it must be of floats, and not too large")
    return check_finite(tensor.float(), what)


def tensor_text(name: str, tensor: Tensor) -> str:
    """A tensor as base64 of a safetensors file."""
    return base64.b64encode(save({name: tensor.detach().cpu().contiguous()})).decode()


def resolver(inputs: Sequence[str], pixels: int) -> Callable[[dict[str, Any]], Any]:
    """Finds the inputs that a record names by their hash among those that came along; never a file.

    Args:
        inputs: data URLs or base64, of files of values or of safetensors.
        pixels: of an image, at most.
    """
    reader = Reader(pixels)
    held: dict[str, Any] = {}
    for number, text in enumerate(inputs):
        data = bytes_of(text, f"inputs.{number}")
        for raw, numbers in _readings(reader, data, f"inputs.{number}"):
            held[record_of(None, raw, numbers)["sha256"]] = raw

    def find(record: dict[str, Any]) -> Any:
        if (digest := record.get("sha256")) not in held:
            raise ValueError(
                f"the settings need an input that is not there (sha256 {str(digest)[:12]}); send it in inputs"
            )
        return held[digest]

    return find


def _readings(reader: Reader, data: bytes, what: str) -> list[tuple[Any, Any]]:
    """All that bytes can stand for: a tensor; or a value of a modality, and a mask."""
    if is_safetensors(data):
        return [(tensor_of(data, what), np.asarray)]
    found: list[tuple[Any, Any]] = []
    refusals: list[str] = []
    for modality in MODALITIES.values():
        if modality.plain:
            continue
        try:
            found.append((reader.value(modality.name, data, what), modality.numbers))
            if modality.check_mask is not None:
                found.append((modality.check_mask(data), np.asarray))
        except ValueError as error:
            refusals.append(str(error))
    if not found:
        raise ValueError(refusals[0] if refusals else f"{what} cannot be read")
    return found


def vector_text(vector: Tensor, encoding: str) -> Any:
    """A vector as a list of numbers, or as base64 of its float32 numbers."""
    numbers = vector.detach().to("cpu", torch.float32).numpy()
    return numbers.tolist() if encoding == "float" else base64.b64encode(numbers.astype("<f4").tobytes()).decode()


def texts_in(content: Any) -> list[str]:
    """The texts of a message: of a plain one, or of its parts."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    return [part["text"] for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
