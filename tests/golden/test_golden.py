"""The guard of numerics: whether raw values still become the same context tokens and latents, and which part moved."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.golden.make import FILE
from tests.golden.models import Models, build
from tests.golden.parts import PARTS, libraries, moved, run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return build(tmp_path_factory.mktemp("vocabularies"))


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return load_file(FILE)


def newer() -> str:
    """Libraries that are not those of the golden vectors."""
    with safe_open(FILE, "pt") as file:
        then = file.metadata()
    changed = [f"{name} {then[name]} -> {now}" for name, now in libraries().items() if then[name] != now]
    return ", ".join(changed) or "no library changed"


@pytest.mark.parametrize("name", PARTS)
def test_part(name: str, models: Models, stored: dict[str, Tensor]) -> None:
    part, then = PARTS[name], stored[name]
    now = run(part, models, stored)
    far = moved(now, then)
    assert far <= part.allowed, (
        f"{name} moved by {far:.1e} of its largest value (allowed {part.allowed:.0e}); "
        f"{tuple(then.shape)} then, {tuple(now.shape)} now. It is about {part.about}. {newer()}"
    )


def test_nothing_is_stored_that_no_part_makes(stored: dict[str, Tensor]) -> None:
    assert stored.keys() == PARTS.keys()
    assert FILE.stat().st_size < 100_000


@pytest.mark.parametrize("name", ["clip.image.pixels", "sampled.text_from_image"])
def test_the_guard_notices(name: str, stored: dict[str, Tensor], tmp_path: Path) -> None:
    """A change of a thousandth of the largest value is far beyond what is allowed."""
    value = stored[name].clone()
    value.view(-1)[0] += 1e-3 * value.abs().max()
    assert moved(value, stored[name]) > 5 * PARTS[name].allowed
    assert moved(value[..., :-1], stored[name]) == float("inf")
