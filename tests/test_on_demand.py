"""Packages that are run when something of them is first used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from versatile_diffusion import on_demand
from versatile_diffusion.on_demand import defer


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that leaves a file when it is run, with a module that leaves none."""
    folder = tmp_path / "slow_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from pathlib import Path\nfrom .part import near\n"
        f"Path({str(tmp_path / 'ran')!r}).open('a').write('x')\nfar = 2\n"
    )
    (folder / "part.py").write_text("near = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield folder.name
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def test_a_module_of_it_is_imported_without_it(package: str, tmp_path: Path) -> None:
    defer([package])
    from slow_package.part import near  # type: ignore[import-not-found]

    assert (near, (tmp_path / "ran").exists()) == (1, False)


def test_what_it_offers_is_there_and_it_is_run_once(package: str, tmp_path: Path) -> None:
    defer([package])
    import slow_package  # type: ignore[import-not-found]

    assert (slow_package.far, slow_package.near) == (2, 1)
    assert {"far", "near", "part"} <= set(dir(slow_package))
    with pytest.raises(AttributeError, match="nothing"):
        _ = slow_package.nothing
    assert (tmp_path / "ran").read_text() == "x"


def test_one_that_is_imported_already_stays(package: str) -> None:
    import slow_package

    defer([package])
    assert slow_package.__spec__.name == package
    assert slow_package.far == 2


def test_the_pipeline_is_imported_without_every_model_of_diffusers() -> None:
    told = (
        "import sys; from versatile_diffusion import VersatileDiffusionPipeline; "
        "print('diffusers.models.transformers.transformer_flux' in sys.modules); "
        "from diffusers.models.transformers import FluxTransformer2DModel as kind; print(kind.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "FluxTransformer2DModel"]


def test_a_stand_in_runs_the_package_when_it_is_called(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / package / "__init__.py").write_text("def add(a, b=1):\n    return a + b\n")
    monkeypatch.setattr(on_demand, "STAND_INS", {package: ("add",)})
    defer([package])
    from slow_package import add  # type: ignore[import-not-found]

    module = sys.modules[package]
    assert type(module).__name__ == "_Package"
    assert (add(1, b=2), add(1)) == (3, 2)
    assert type(module).__name__ == "module"
    assert module.add is not add


def test_the_pipeline_is_imported_without_the_optimizers_of_scipy() -> None:
    told = (
        "import sys; from versatile_diffusion import VersatileDiffusionPipeline; "
        "print(*(name in sys.modules for name in ('scipy.optimize._optimize', 'scipy.integrate._ode'))); "
        "from transformers.loss.loss_for_object_detection import linear_sum_assignment as assigned; "
        "print(*map(int, assigned([[0.0, 1.0], [1.0, 0.0]])[1])); "
        "from scipy.optimize import minimize; print(minimize.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "0", "1", "minimize"]
