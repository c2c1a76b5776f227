"""Values in messages: short whatever they are, in one line, and never walked through to the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from versatile_diffusion.printable import MOST_SHOWN, shown

LONG: dict[str, Any] = {
    "an int": 10**400,
    "one that Python does not write out": -(10**5000),
    "a text": "x" * 10**6,
    "lines": "a\n" * 1000,
    "a list": list(range(10**5)),
    "nested": [[["x" * 100] * 100] * 100] * 100,
    "a dict": {str(k): "y" * 1000 for k in range(1000)},
    "a set": set(range(10**5)),
    "bytes": bytes(10**7),
    "an array": np.zeros((64, 64, 3)),
    "a tensor": torch.zeros(4, 100, 100),
    "a path": Path("/" + "x" * 5000),
    "an array of texts": np.array(["x" * 1000] * 3),
}


@pytest.mark.parametrize("name", LONG)
def test_long_values_are_shortened(name: str) -> None:
    said = shown(LONG[name])
    assert len(said) <= MOST_SHOWN
    assert said.isprintable()


@pytest.mark.parametrize("value", [7, -3.5, "a cat", None, True, [1, 2], ("a", {"b": 1}), b"ab", 10**39, Path("a.png")])
def test_short_values_are_as_they_are(value: Any) -> None:
    assert shown(value) == repr(value)


def test_what_is_told_of_a_long_value() -> None:
    assert shown(10**400) == "an int of about 1e+400"
    assert shown(np.zeros((64, 64, 3))) == "<ndarray (64, 64, 3) of float64>"
    assert shown("a" + "x" * 1000 + "b")[:3] + shown("a" + "x" * 1000 + "b")[-2:] == "'axb'"
    assert shown(np.float64(0.5)) == repr(np.float64(0.5))
