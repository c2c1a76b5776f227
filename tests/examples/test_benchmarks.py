"""What the benchmarks share: how a judge's answers become numbers, and where tables go."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny import build_tiny_pipeline

from versatile_diffusion.evaluation.ensemble import single_flow
from versatile_diffusion.pipeline.distilled import DistilledForm

DATA = Path(__file__).parents[1] / "data" / "emoji"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("judging")


def test_standing_is_the_share_of_others_that_are_less_likely(judging: ModuleType) -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    found = judging._standing(scores, torch.tensor([0, 2, 1, -1]))
    assert found[:3].tolist() == [1, 0.5, 0]
    assert np.isnan(found[3])


def test_a_table_goes_to_its_place_on_a_page(judging: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- mixing -->\nold\n<!-- /mixing -->\nafter\n")
    for value in (1, 2):
        judging.write_table("mixing", {"layer": {"seen": value}}, "how", "64 pairs", page)
    assert page.read_text() == (
        "before\n<!-- mixing -->\n64 pairs\n\n| how | seen |\n|---|---:|\n| layer | 2 |\n<!-- /mixing -->\nafter\n"
    )
    with pytest.raises(ValueError, match="no place for the table"):
        judging.write_table("joint", {"layer": {"seen": 1}}, "how", "64 pairs", page)


@pytest.mark.slow
def test_levels_of_mixing_beside_two_whole_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the flows of the model itself, and with two folders."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    mixing = importlib.import_module("mixing")
    pipe = build_tiny_pipeline()
    pipe.save_pretrained(tmp_path / "whole")
    for name, task in (("words", "text-to-image"), ("looks", "image-variation")):
        single_flow(pipe, task).save_pretrained(tmp_path / name)
    options = {"data": DATA, "model": str(tmp_path / "whole"), "judge": tmp_path / "none", "split": "pair-test"}
    options |= {"count": 3, "steps": 2, "scale": 2.0, "batch": 2, "markdown": None}
    found = []
    for ensemble in ([], [str(tmp_path / "words"), str(tmp_path / "looks")]):
        mixing.main(**options, json=tmp_path / "table.json", ensemble=ensemble)
        assert "| in turn |" in capsys.readouterr().out
        table = json.loads((tmp_path / "table.json").read_text())["table"]
        assert table["in turn"]["passes"] == table["attention"]["passes"] == 4
        assert table["in turn"]["context blocks"] == table["layer"]["context blocks"]
        found.append({name: value for name, value in table["in turn"].items() if name != "seconds"})
    assert found[0] == found[1], "the folders hold those flows"


@pytest.mark.slow
def test_a_distilled_model_is_judged_beside_its_teacher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    distilled = importlib.import_module("distilled")
    pipe = build_tiny_pipeline()
    pipe.save_pretrained(tmp_path / "teacher")
    pipe.add_form(DistilledForm("4", {"text-to-image": {"guidance_scale": 1.0, "num_inference_steps": 4}}, "trailing"))
    pipe.save_pretrained(tmp_path / "student")
    models = {name: str(tmp_path / name) for name in ("teacher", "student")}
    page = tmp_path / "page.md"
    page.write_text("<!-- distilled -->\n<!-- /distilled -->\n")
    options = {"fast": "4", "steps": "1,2", "guided": "3", "count": 2, "out": tmp_path / "out", "page": page}
    distilled.main(judge=DATA.parent / "judge", **models, **options)
    table = json.loads((tmp_path / "out" / "distilled.json").read_text())
    passes = {name: row["passes"] for name, row in table.items()}
    assert passes == {"teacher, 3 guided steps": 6, "student, 1 steps": 1, "student, 2 steps": 2}
    assert page.read_text().count("| student, ") == 2
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
