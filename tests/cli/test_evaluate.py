"""`versatile evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.evaluation.results import Result

DATA = Path(__file__).parents[1] / "data" / "emoji"
SMALL = ("--count", 2, "--steps", 1, "--split", "pair-test")


def test_a_model_is_measured_swept_and_compared(versatile, model) -> None:
    answer = versatile("evaluate", "--model", model, "--data", DATA, *SMALL, "--task", "text-to-image", "--json")
    assert answer.code == 0
    result = json.loads(answer.out)
    assert result["protocol"]["count"] == 2
    assert "encoders/style" in result["tables"]["pair-test"]["text-to-image"]
    assert Path("evaluation/report.html").is_file()
    assert "no judge is given" in answer.err

    wanted = ("--task", "text-variation", "--sweep", "guidance_scale=1,2", "--out", "swept")
    assert versatile("evaluate", "--model", model, "--data", DATA, *SMALL, *wanted).code == 0
    assert "<svg" in Path("swept/report.html").read_text()
    files = sorted(Path("swept").glob("results-*.json"))
    assert [file.name for file in files] == ["results-guidance_scale-1.0.json", "results-guidance_scale-2.0.json"]
    same = versatile("evaluate", "--compare", files[0], "--compare", files[0])
    assert same.code == 0
    assert "text-variation: text/label" in same.out
    other = versatile("evaluate", "--compare", files[0], "--compare", files[1])
    assert other.code == 2
    assert "guidance_scale: 1.0, 2.0" in other.err
    along = versatile("evaluate", "--compare", files[0], "--compare", files[1], "--along", "guidance_scale")
    assert "<svg" in Path(along.out.strip()).read_text()


def test_a_model_beside_another_on_a_page(versatile, model) -> None:
    wanted = ("--task", "text-variation", "--against", model, "--page", "docs/mine.md")
    Path("docs").mkdir()
    answer = versatile("evaluate", "--model", model, "--data", DATA, *SMALL, *wanted)
    assert answer.code == 0, answer.err
    value = str(Result.load(Path("evaluation/results.json")).tables["pair-test"]["text-variation"]["agreement/text"])
    assert f"| text-variation | agreement/text | {value} | {value} | " in Path("docs/mine.md").read_text()
    assert "Beside other models" in Path("evaluation/report.html").read_text()
    assert Path("evaluation", f"results-{Path(model).name}.json").is_file()


def test_the_accuracy_of_the_judge_stands_beside_what_is_compared(versatile) -> None:
    protocol = Protocol("mine", hashes={"judge": "abc", "data": "xyz"})
    tables = {"pair-test": {"text-to-image": {"judge/style": Measured(0.25, 0.2, 0.3, 9)}}}
    result = Result(protocol, {"name": "one"}, {"pair-test": {"style": 87.5}}, tables, 1.0, "")
    result.save(Path("one.json"))
    replace(result, protocol=replace(protocol, steps=9)).save(Path("two.json"))
    beside = versatile("evaluate", "--compare", "one.json", "--compare", "one.json")
    assert "judge on all real pictures of pair-test: style 87.5 %" in beside.out
    assert "judge/style" in beside.out
    along = versatile("evaluate", "--compare", "one.json", "--compare", "two.json", "--along", "steps")
    assert "<td>pair-test</td><td>style 87.5 %</td>" in Path(along.out.strip()).read_text()


def test_mistakes_are_told_in_a_line(versatile, model) -> None:
    for options, said in {
        (): "--data is missing",
        ("--data", DATA, "--sweep", "colour=1,2"): "write it as field=1,2,4",
        ("--data", DATA, "--sweep", "steps=few"): "write it as field=1,2,4",
        ("--data", DATA, "--protocol", "slow"): "no protocol 'slow'",
        ("--data", DATA, "--split", "tests"): "splits has 'tests'",
        ("--data", DATA, "--device", "cuda:99"): "unknown device 'cuda:99'",
        ("--data", DATA, "--against", "nobody"): "nobody",  # before anything is measured
    }.items():
        answer = versatile("evaluate", "--model", model, *options)
        assert answer.code == 2
        assert not Path("evaluation").exists()
        assert said in answer.err
        assert answer.err.count("\n") == 1
