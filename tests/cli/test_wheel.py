"""The distribution as people install it: built, checked, and run from an environment that has no clone.

The libraries that it needs come from the environment of the tests, so that this takes seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = 3_000_000  # bytes
BIN = "Scripts" if os.name == "nt" else "bin"

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


def python_of(environment: Path) -> Path:
    return environment / BIN / ("python.exe" if os.name == "nt" else "python")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with build, twine and hatchling."""
    place = tmp_path_factory.mktemp("tools")
    run(sys.executable, "-m", "venv", place, check=True)
    pip = (python_of(place), "-m", "pip", "install", "-q", "--retries", "1", "--timeout", "30")
    got = run(*pip, "-c", ROOT / "constraints" / "release.txt", "build", "hatchling", "twine")
    if got.returncode:
        pytest.skip(f"build, hatchling and twine cannot be installed here: {got.stderr.strip()[-200:]}")
    return python_of(place)


@pytest.fixture(scope="module")
def built(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it, and the wheel of the emoji model."""
    out = tmp_path_factory.mktemp("dist")
    for source, more in ((ROOT, ()), (ROOT / "models" / "emoji", ("--wheel",))):
        done = run(tools, "-m", "build", "--no-isolation", "--outdir", out, *more, source)
        assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel alone; its model is to be fetched."""
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", place, check=True)
    (wheel,) = built.glob("versatile_diffusion-*.whl")
    pip = (sys.executable, "-m", "pip", "--python", python_of(place), "install", "-q", "--no-deps", "--no-index")
    done = run(*pip, wheel)
    assert done.returncode == 0, done.stderr
    lent = sysconfig.get_paths()["purelib"]  # a path named in a .pth has its own .pth files left aside
    home = next(place.glob("**/site-packages"))
    (home / "libraries_of_the_tests.pth").write_text(lent + "\n", encoding="utf-8")
    return place / BIN


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """No source folder on the path, and a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"VERSATILE_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}


def test_twine_finds_nothing_wrong(tools: Path, built: Path) -> None:
    done = run(tools, "-m", "twine", "check", "--strict", *built.iterdir())
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_inside(built: Path) -> None:
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("versatile_diffusion-*.whl")
    with tarfile.open(sdist) as archive:
        source = archive.getnames()
    with zipfile.ZipFile(wheel) as packed:
        files = packed.namelist()
        entry = next(packed.read(name).decode() for name in files if name.endswith("entry_points.txt"))
    for names in (source, files):
        assert not [name for name in names if name.endswith((".safetensors", ".pth", ".npz", ".pt"))]
        assert [name for name in names if name.endswith("versatile_diffusion/py.typed")]
        assert [name for name in names if Path(name).name in ("LICENSE", "NOTICE")]
    assert not [name for name in source if "/tests/" in name or "/models/" in name or "/reference/" in name]
    assert max(sdist.stat().st_size, wheel.stat().st_size) < SMALL
    assert "versatile = " in entry
    assert "versatile-diffusion = " in entry


def test_the_four_tasks_run_with_a_fetched_model(
    installed: Path, built: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    def versatile(*arguments: object, code: int = 0) -> str:
        done = run(installed / "versatile-diffusion", *arguments, cwd=tmp_path, env=environment)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    source = "import versatile_diffusion; print(versatile_diffusion.__file__)"
    where = run(python_of(installed.parent), "-c", source, cwd=tmp_path, env=environment).stdout
    assert str(installed.parent) in where
    emoji = next(built.glob("versatile_diffusion_emoji-*.whl"))
    probe = (
        "from importlib.metadata import entry_points as e; import sys;"
        "sys.exit(bool(e(group='versatile_diffusion.models')))"
    )
    lent_a_model = run(python_of(installed.parent), "-c", probe, cwd=tmp_path, env=environment).returncode
    if not lent_a_model:
        refused = versatile("text-to-image", "a red apple", code=2)
        assert "`versatile fetch emoji`" in refused
        assert refused.count("\n") == 1
    assert str(tmp_path / "cache") in versatile("fetch", "emoji", "--from", emoji)
    quick = ("--steps", 2, "--seed", 0, "--model", tmp_path / "cache" / "models" / "emoji")
    versatile("text-to-image", "a red apple", "--out", "out", *quick)
    (image,) = (tmp_path / "out").glob("*.png")
    versatile("image-variation", image, "--out", "more", *quick)
    assert versatile("image-to-text", image, *quick).strip()
    assert versatile("text-variation", "a red apple", *quick).strip()
    assert (tmp_path / "more").is_dir()
