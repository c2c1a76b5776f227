"""`versatile fetch`: what is kept is the model of this version, whole, or nothing."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from versatile_diffusion import shipped

ROOT = Path(__file__).parents[3]
WEIGHTS = ROOT / "models" / "emoji" / "src" / "versatile_diffusion_emoji"


@pytest.fixture
def small(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model in place of the shipped one, and an empty cache."""
    monkeypatch.setenv("VERSATILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shipped, "CHECKOUT", None)
    monkeypatch.setattr(shipped, "entry_points", lambda group: [])
    monkeypatch.setattr("versatile_diffusion.cli.verbs.fetch.DIGESTS", {"emoji": shipped.digest_of(Path(model))})
    return Path(model)


def packed(folder: Path, wheel: Path, **more: str) -> Path:
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, Path("emoji", "weights", file.relative_to(folder)))
        for name, text in more.items():
            archive.writestr(name.replace("UP", ".."), text)
    return wheel


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing, since stderr is looked at."""

    handler = partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("way", ["folder", "file", "url"])
def test_a_fetched_model_is_found_by_its_name(
    small: Path, tmp_path: Path, versatile: Command, served: str, way: str
) -> None:
    wheel = packed(small, tmp_path / "emoji.whl")
    place = {"folder": small, "file": wheel, "url": f"{served}/emoji.whl"}[way]
    answer = versatile("fetch", "emoji", "--from", place)
    assert (answer.code, answer.out) == (0, f"{tmp_path / 'cache' / 'models' / 'emoji'}\n")
    assert shipped.shipped_models() == {"emoji": tmp_path / "cache" / "models" / "emoji"}
    assert versatile("describe", "--json").code == 0
    assert "already" in versatile("fetch", "emoji").err


def test_what_is_not_the_model_is_not_kept(small: Path, tmp_path: Path, versatile: Command, served: str) -> None:
    changed = Path(shutil.copytree(small, tmp_path / "changed"))
    (changed / "model_index.json").write_text((changed / "model_index.json").read_text() + " ")
    (tmp_path / "text.whl").write_text("no wheel")
    (tmp_path / "empty").mkdir()
    cases = {
        changed: "not the emoji model of this version",
        packed(changed, tmp_path / "changed.whl"): "nothing was kept",
        packed(small, tmp_path / "up.whl", **{"UP/x": "y"}): "which lies elsewhere",
        tmp_path / "text.whl": "is no wheel",
        tmp_path / "empty": "0 models",
        "nowhere.whl": "URL, a file or folder",
        f"{served}/none.whl": "404",
    }
    for place, words in cases.items():
        answer = versatile("fetch", "emoji", "--from", place)
        assert answer.code == 2
        assert words in answer.err
        assert answer.err.count("\n") == 1
    assert not (tmp_path / "cache" / "models" / "emoji").exists()
    assert not (tmp_path / "x").exists()
    assert "mean 'emoji'" in versatile("fetch", "emojy").err


def test_without_a_release_it_says_what_to_give(
    small: Path, versatile: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("versatile_diffusion.cli.verbs.fetch.RELEASES", {})
    answer = versatile("fetch", "emoji")
    assert answer.code == 2
    assert "--from" in answer.err


def test_the_digest_is_that_of_the_shipped_model() -> None:
    script = ROOT / "scripts" / "model_digests.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
