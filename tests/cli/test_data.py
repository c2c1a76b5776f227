"""`versatile data emoji`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from emoji_packages import registry, write_packages

from tests.cli.conftest import Command
from versatile_diffusion.recipes.emoji.data import EmojiSet, Manifest, build

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"


def test_it_builds_and_counts(versatile: Command, monkeypatch, tmp_path):
    asked = {}

    def build_emoji(out, **wishes):
        asked.update(out=out, **wishes)
        return Manifest.read(FIXTURE)

    monkeypatch.setattr("versatile_diffusion.recipes.emoji.data.build_emoji", build_emoji)
    done = versatile("data", "emoji", "--out", tmp_path, "--workers", 1)
    assert (done.code, "concept-test" in done.out) == (0, True)
    assert asked == {"out": tmp_path, "size": 64, "workers": 1, "edition": 2}
    told = json.loads(versatile("data", "emoji", "--out", tmp_path, "--json").out)
    assert told["total"] == sum(sum(row.values()) for row in told["counts"].values())


def test_missing_npm_is_a_value_error(versatile: Command, monkeypatch, tmp_path):
    pytest.importorskip("resvg_py")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "tqdm", lambda rows, *_, **__: rows)
    done = versatile("data", "emoji", "--out", tmp_path / "set")
    assert (done.code, "npm was not found on PATH" in done.err) == (2, True)


FAKE_NPM = """#!/bin/sh
# npm pack SPEC --ignore-scripts --pack-destination FOLDER, as npm does it: from the folder that it runs in
cp "{packages}/$(echo "${{2#@}}" | tr '/@' '--').tgz" "$5/"
"""


@pytest.fixture
def local_packages(monkeypatch, tmp_path, versatile):
    """Small packages, which an `npm` of a few lines takes from a folder; no other program is found."""
    pytest.importorskip("resvg_py")
    write_packages(tmp_path / "packages", monkeypatch)
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text(FAKE_NPM.format(packages=tmp_path / "packages"))
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize("out", ["data/emoji", "./set", "up/../data/emoji"])
def test_a_relative_folder_is_built_in(versatile: Command, local_packages: Path, out: str) -> None:
    Path("up").mkdir()
    done = versatile("data", "emoji", "--out", out, "--size", 16, "--workers", 1, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["folder"], told["total"]) == (str(Path(out)), 60)
    assert EmojiSet.load(Path(out), "train").labels
    assert len(list(local_packages.rglob("emojilib-*.tgz"))) == 2, "in the registry, and where it was asked for"


def test_a_folder_by_a_link_from_below(versatile: Command, local_packages: Path, monkeypatch) -> None:
    (local_packages / "elsewhere").mkdir()
    (local_packages / "below").mkdir()
    (local_packages / "link").symlink_to("elsewhere")
    monkeypatch.chdir(local_packages / "below")
    assert versatile("data", "emoji", "--out", "../link/emoji", "--size", 16, "--workers", 1).code == 0
    assert (local_packages / "elsewhere" / "emoji" / "manifest.json").is_file()


def test_npm_is_quoted_and_the_network_blamed_for_its_faults_alone(versatile: Command, local_packages: Path) -> None:
    npm = local_packages / "bin" / "npm"
    for code, blamed in (
        ("ENOENT", False),
        ("EACCES", False),
        ("ENOTFOUND", True),
        ("E404", True),
        ("ECONNRESET", True),
    ):
        npm.write_text(f"#!/bin/sh\necho 'npm error code {code}' >&2\nexit 7\n")
        done = versatile("data", "emoji", "--out", "data/emoji", "--workers", 1)
        assert done.code == 2
        assert f"failed with status 7 (npm error code {code})" in done.err
        assert ("check the network" in done.err) == blamed


@pytest.mark.campaign
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_itself_fetches_from_a_registry(versatile: Command, monkeypatch, tmp_path: Path) -> None:
    packages = write_packages(tmp_path / "packages", monkeypatch)
    with registry(tmp_path / "packages", packages) as address:
        monkeypatch.setenv("npm_config_registry", address)
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
        done = versatile("data", "emoji", "--out", "data/emoji", "--size", 16, "--workers", 1)
    assert done.code == 0, done.err
    fetched = {path.name for path in Path("data/emoji/.work/downloads").iterdir()}
    assert fetched == {package.filename for package in packages}
