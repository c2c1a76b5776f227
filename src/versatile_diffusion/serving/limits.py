"""What clients may ask for, each and together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from versatile_diffusion.numeric import is_number
from versatile_diffusion.printable import shown

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.request import Request


@dataclass(frozen=True)
class Limits:
    """Bounds of a service.

    Args:
        places: items that are generated at the same time; a waiting item takes the next free place.
        waiting: requests that may wait.
        each: requests of one client that may wait or run.
        items: images or texts of one request, candidates counted.
        steps: of one request.
        side: height and width of an image in pixels.
        tokens: length of a generated text.
        pixels: of an input image.
        inputs: texts and images of one request for embeddings.
        seconds: from the arrival of a request until it must be done.
        megabytes: of the body of a request.
        grace: seconds that running work has to end when the service stops.

    Raises:
        ValueError: one of them is not a number above 0.
    """

    places: int = 8
    waiting: int = 64
    each: int = 16
    items: int = 16
    steps: int = 200
    side: int = 1024
    tokens: int = 512
    pixels: int = 25_000_000
    inputs: int = 256
    seconds: float = 300.0
    megabytes: int = 32
    grace: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = isinstance(value, int) or field.type == "float"
            if not is_number(value) or not whole or not 0 < value < math.inf:
                raise ValueError(f"{field.name} is {shown(value)}; it must be a number above 0")

    def check(self, request: Request, prompts: int) -> None:
        """ValueError if a request asks for more. Args: prompts: number of prompts."""
        items = request.num_outputs * request.candidates * prompts
        bounds: Iterable[tuple[str, Any, float]] = (
            ("the number of items (num_outputs x candidates x prompts)", items, self.items),
            ("num_inference_steps", request.num_inference_steps, self.steps),
            ("height", request.height or 0, self.side),
            ("width", request.width or 0, self.side),
            ("max_length", request.max_length or 0, self.tokens),
        )
        for name, value, most in bounds:
            if value > most:
                raise ValueError(f"{name} is {value}; this service allows up to {most}")
