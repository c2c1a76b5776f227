"""`versatile evaluate`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import build_tiny_pipeline

from versatile_diffusion.evaluation import baselines
from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.evaluation.results import Result

DATA = Path(__file__).parents[2] / "data" / "emoji"
SMALL = ("--count", 2, "--steps", 1, "--split", "pair-test")


def test_a_model_is_measured_swept_and_compared(versatile, model) -> None:
    answer = versatile("evaluate", "--model", model, "--data", DATA, *SMALL, "--task", "text-to-image", "--json")
    assert answer.code == 0
    result = json.loads(answer.out)
    assert result["protocol"]["count"] == 2
    assert "encoders/style" in result["tables"]["pair-test"]["text-to-image"]
    assert Path("evaluation/report.html").is_file()
    assert "no --judge given" in answer.err

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
    assert "Comparison with other models" in Path("evaluation/report.html").read_text()
    assert Path("evaluation", f"results-{Path(model).name}.json").is_file()


def test_others_are_loaded_once_and_keep_what_they_made(versatile, model, monkeypatch) -> None:
    """Two models of one name are told apart, so that neither takes the place of the other."""
    loads = []
    find = baselines.find_subject
    monkeypatch.setattr(baselines, "find_subject", lambda name, *more: loads.append(name) or find(name, *more))
    for folder in ("one", "two"):
        build_tiny_pipeline().save_pretrained(f"{folder}/same")
    other = Path("two/same/unet/diffusion_pytorch_model.safetensors")
    save_file({name: 1.01 * value for name, value in load_file(other).items()}, other)
    wanted = ("--task", "text-to-image", "--against", "one/same", "--against", "two/same", "--against", "one/same")
    answer = versatile("evaluate", "--model", model, "--data", DATA, *SMALL, *wanted)
    assert answer.code == 0, answer.err
    assert loads == ["one/same", "two/same", model]
    files = sorted(file.name for file in Path("evaluation").glob("results-*.json"))
    assert len(files) == 2
    assert all(re.fullmatch(r"results-same-\w{6}\.json", file) for file in files)
    assert Path("evaluation/beside-pair-test-text-to-image.png").is_file()
    assert "too few images" in answer.err


def test_the_accuracy_of_the_judge_stands_beside_what_is_compared(versatile) -> None:
    protocol = Protocol("mine", hashes={"judge": "abc", "data": "xyz"})
    tables = {"pair-test": {"text-to-image": {"judge/style": Measured(0.25, 0.2, 0.3, 9)}}}
    result = Result(protocol, {"name": "one"}, {"pair-test": {"style": 87.5}}, tables, 1.0, "")
    result.save(Path("one.json"))
    replace(result, protocol=replace(protocol, steps=9)).save(Path("two.json"))
    beside = versatile("evaluate", "--compare", "one.json", "--compare", "one.json")
    assert "judge on all real images of pair-test: style 87.5 %" in beside.out
    assert "judge/style" in beside.out
    along = versatile("evaluate", "--compare", "one.json", "--compare", "two.json", "--along", "steps")
    assert "<td>pair-test</td><td>style 87.5 %</td>" in Path(along.out.strip()).read_text()


def test_mistakes_are_told_in_a_line(versatile, model) -> None:
    for options, said in {
        (): "--data is required",
        ("--data", DATA, "--sweep", "colour=1,2"): "it must be field=1,2,4",
        ("--data", DATA, "--sweep", "steps=few"): "it must be field=1,2,4",
        ("--data", DATA, "--protocol", "slow"): "no protocol 'slow'",
        ("--data", DATA, "--split", "tests"): "the data set has no split 'tests'",
        ("--data", DATA, "--device", "cuda:99"): "this build of torch has no CUDA",
        ("--data", DATA, "--against", "nobody"): "nobody",  # before anything is measured
    }.items():
        answer = versatile("evaluate", "--model", model, *options)
        assert answer.code == 2
        assert not Path("evaluation").exists()
        assert said in answer.err
        assert answer.err.count("\n") == 1


def test_programs_are_only_run_if_they_are_trusted(versatile, model) -> None:
    Path("inception.pt").write_bytes(b"any")
    wanted = ("evaluate", "--model", "no-such-model", "--data", DATA, *SMALL)
    Path("mine.json").write_text(json.dumps(Protocol("mine", features=["inception.pt"]).plain()))
    for given in (("--features", "inception.pt"), ("--protocol", "mine.json")):
        answer = versatile(*wanted, *given)
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert "inception.pt is a TorchScript program" in answer.err
        assert "unknown model 'no-such-model'" in versatile(*wanted, *given, "--trust-features").err


def test_a_protocol_does_not_decide_what_is_fetched(versatile, model) -> None:
    wanted = ("evaluate", "--model", "no-such-model", "--data", DATA, "--protocol", "mine.json")
    for field, option in (("encoders", "--encoders"), ("judge", "--judge")):
        Path("mine.json").write_text(json.dumps(Protocol("mine", **{field: "somebody/network"}).plain()))
        answer = versatile(*wanted)
        assert (answer.code, "uses the network 'somebody/network'" in answer.err) == (2, True)
        assert "unknown model 'no-such-model'" in versatile(*wanted, option, "somebody/network").err


def test_a_model_is_measured_on_images_with_captions_of_ones_own(versatile, model) -> None:
    Path("mine").mkdir()
    for name, colour in (("apple", "red"), ("sea", "blue"), ("leaf", "green")):
        Image.new("RGB", (24, 24), colour).save(f"mine/{name}.png")
        Path(f"mine/{name}.txt").write_text(f"a {colour} {name}")
    Path("mine/broken.png").write_text("no image")
    Path("mine/broken.txt").write_text("a broken thing")
    answer = versatile("evaluate", "--model", model, "--data", "mine", "--count", 3, "--steps", 1, "--json")
    assert answer.code == 0, answer.err
    table = json.loads(answer.out)["tables"]["all"]
    assert {"text/CIDEr-D", "agreement/image"} <= set(table["image-to-text"])
    assert "3 read, 1 bad images" in answer.err
    assert "no --judge given" not in answer.err
