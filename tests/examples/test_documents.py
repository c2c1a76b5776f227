"""The Python of documents is run, and the page on own data as a whole, with a model of random weights that bears the
shipped one's name; the notebook with the shipped one itself. `test_pages` has the commands."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import build_tiny_pipeline

from tests.cli import shell
from tests.examples.pages import PAGES
from versatile_diffusion import shipped
from versatile_diffusion.pipeline import models
from versatile_diffusion.training.diffuser import own_data

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "tour.ipynb"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

PARTS = re.compile(r"(?:`(\S+)`:\n\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""The file that a block is, if it is one; its kind and its text."""


def run(blocks: list[str], name: str, names: dict[str, Any]) -> None:
    """Blocks one after the other, in one room; an error tells which."""
    for number, block in enumerate(blocks, 1):
        code = compile(block, f"{name}, block {number}", "exec", dont_inherit=True)
        try:
            exec(code, names)
        except Exception as error:
            raise AssertionError(f"{name}, block {number}: {error!r}\n\n{block}") from error


@pytest.fixture
def tiny_emoji(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`from_pretrained("emoji")` gives a model of random weights that takes two steps."""
    pipe = build_tiny_pipeline()
    pipe.register_to_config(defaults={task.name: {"num_inference_steps": 2} for task in pipe.tasks()})
    pipe.save_pretrained(tmp_path / "emoji")
    for module in (models, shipped):
        monkeypatch.setattr(module, "shipped_models", lambda: {"emoji": tmp_path / "emoji"})
    monkeypatch.chdir(tmp_path)


WHOLE = (
    "README.md",
    "docs/guides/applications.md",
    "docs/guides/controls.md",
    "docs/guides/quick_start.md",
    "models/emoji/README.md",
)
"""Pages whose Python is run, block after block."""
NOT_WHOLE = {
    "docs/guides/add_a_modality.md": "shows tests/conformance/sound.py, on which tests/conformance runs",
    "docs/guides/brain_decoding.md": "a part of examples/brain_decoding.py, which test_brain_decoding.py runs",
    "docs/guides/checkpoints.md": "needs checkpoints of other projects; tests/interop reads tiny ones",
    "docs/guides/embeddings.md": "needs tokens that somebody predicted; tests/records/test_embeddings.py has some",
    "docs/guides/evaluation.md": "measures hundreds of items; tests/evaluation/test_evaluate.py measures three",
    "docs/performance.md": "needs torchao; tests/records/test_fingerprints.py has weights that are made alike",
    "docs/reports/gallery.md": "written from scripts/gallery_entries.py, which test_gallery.py runs",
    "docs/guides/own_data.md": "run with the commands between its blocks by test_own_data_from_pictures_to_a_model",
    "docs/guides/serving.md": "asks a service; tests/serving/test_page.py starts one",
    "docs/guides/training.md": "stands for any objective; tests/training/engine/test_loop.py has some",
}


@pytest.mark.parametrize("name", WHOLE)
def test_documents(tiny_emoji: None, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder-with-the-published-files").symlink_to("emoji")
    for picture in ("photo", "tiger", "cactus", "car", "whale"):
        Image.effect_noise((24, 24), 80).convert("RGB").save(f"{picture}.png")
    blocks = BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))
    assert blocks
    run(blocks, name, {})


def test_python_on_pages_is_run_or_says_why_not() -> None:
    having = {name for name, path in PAGES.items() if BLOCK.search(path.read_text(encoding="utf-8"))}
    assert having == {*WHOLE, *NOT_WHOLE}


@pytest.mark.slow
def test_own_data_from_pictures_to_a_model(tiny_emoji: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command, file and Python block of the page in its order, as written; runs have one step, and measure and
    show nothing."""
    pytest.importorskip("peft")
    monkeypatch.setattr(own_data, "LOOP", replace(own_data.LOOP, steps=1))
    monkeypatch.setattr(own_data.DiffuserObjective, "sample_sheet", lambda *_: None)
    monkeypatch.setattr(own_data.DiffuserObjective, "evaluate", lambda *_: {})
    page = (ROOT / "docs" / "guides" / "own_data.md").read_text(encoding="utf-8")
    counts = Counter(kind for _, kind, _ in PARTS.findall(page))
    assert counts == {"python": 2, "json": 1, "": 6}
    names: dict[str, Any] = {}
    for before, kind, text in PARTS.findall(page):
        if kind == "python":
            run([text], "own_data.md", names)
        elif kind == "json":
            Path(before).write_text(text, encoding="utf-8")
        else:
            for line in text.splitlines():
                done = shell.run(line.replace("--steps 20", "--steps 1"))
                assert done.code == 0, f"{line}: {done.err}"
    written = json.loads(Path("runs/joint/settings.json").read_text(encoding="utf-8"))
    assert written["options"]["config"].items() <= json.loads(Path("mine.json").read_text(encoding="utf-8")).items()
    assert len(list(Path("out/mine").glob("text-to-image-*.png"))) == 4


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_stored_with_results() -> None:
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in cells()}) == len(cells())
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    images = [output for cell in code for output in cell["outputs"] if "image/jpeg" in output.get("data", ())]
    assert len(images) >= 10
    assert NOTEBOOK.stat().st_size < 500_000
    tools = ("!", "%")
    assert [line for cell in code for line in cell["source"] if line.startswith(tools)] == [], "plain Python runs it"


@pytest.mark.campaign
def test_the_results_of_the_notebook_are_those_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts, line by line; a few captions may differ where another machine rounds otherwise."""
    pytest.importorskip("versatile_diffusion_emoji")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("run_notebook")
    stored = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    threads = torch.get_num_threads()
    again = script.executed(stored)
    torch.set_num_threads(threads)
    before, after = script.texts(stored), script.texts(again)
    assert [len(lines) for lines in before] == [len(lines) for lines in after]
    lines = [pair for one, other in zip(before, after, strict=True) for pair in zip(one, other, strict=True)]
    same = sum(one == other for one, other in lines)
    assert same >= 0.8 * len(lines), [pair for pair in lines if pair[0] != pair[1]]


def test_the_notebook_shows_something_in_every_chapter() -> None:
    """Each cell that ends with an expression shows it."""
    chapters, shown = 0, 0
    for cell in cells():
        text = "".join(cell["source"])
        chapters += text.startswith("## ") and "not part of this" not in text
        if cell["cell_type"] == "code":
            shown += isinstance(ast.parse(text).body[-1], ast.Expr)
    assert shown >= chapters >= 7


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    """From top to bottom, on the shipped model, with fewer steps than it takes."""
    pytest.importorskip("versatile_diffusion_emoji")
    code = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]
    steps = '"num_inference_steps": 10'
    assert [block.count(steps) for block in code] == [1] + [0] * (len(code) - 1)
    code[0] = code[0].replace(steps, '"num_inference_steps": 2')
    threads = torch.get_num_threads()
    run(code, "notebooks/tour.ipynb", {})
    torch.set_num_threads(threads)
