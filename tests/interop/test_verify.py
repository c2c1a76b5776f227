"""What `verify` says of good and of damaged files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_official
import torch
from safetensors.torch import load_file, save_file

from versatile_diffusion.cli import main
from versatile_diffusion.interop.read.found import CONFIG_FILE
from versatile_diffusion.interop.verify import Verification, verify

DIFFUSER = "vd-four-flow-v1-0.pth"
TIME = "diffuser.image.time_embed.0.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tiny_official.write_official(tmp_path_factory.mktemp("official"))
    (folder / CONFIG_FILE).write_text(json.dumps(tiny_official.CONFIG), encoding="utf-8")
    return folder


@pytest.fixture
def files(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "files"))


def change(files: Path, name: str, **entries: torch.Tensor | None) -> None:
    state = torch.load(files / name) | entries
    torch.save({key: value for key, value in state.items() if value is not None}, files / name)


def said(report: Verification, serious: bool = True) -> list[tuple[str, str]]:
    return [(f.entry, f.what) for part in report.parts for f in part.findings if f.serious == serious]


def test_good_files(original):
    report = verify(original)
    assert report.ok, report
    assert not said(report, serious=True)
    parts = {part.name: part for part in report.parts}
    assert set(parts) == {"diffuser", "image-codec", "text-codec", "text-encoder", "image-encoder"}
    states = tiny_official.official_states()
    assert parts["diffuser"].numbers == sum(value.numel() for value in states["diffuser"].values())
    assert parts["diffuser"].bytes == 4 * parts["diffuser"].numbers
    assert parts["image-codec"].dtypes == {"float32": len(states["image-codec"])}
    assert json.loads(json.dumps(report.record()))["ok"] is True


def test_names_and_shapes(files):
    time = torch.zeros(3, 3)
    change(files, DIFFUSER, **{TIME: time, "diffuser.image.data_blocks.0.0.bias": None, "diffuser.image.odd": time})
    report = verify(files, numbers=False)
    assert not report.ok
    assert not report.numbers_read
    findings = said(report)
    assert ("diffuser.image.odd", "is unknown") in findings
    assert ("data.image.0.project.bias", "is missing") in findings
    assert (TIME, "is (3, 3), not (128, 32)") in findings
    assert len(findings) == 3


def test_numbers(files):
    state = torch.load(files / DIFFUSER)
    damaged = state[TIME].clone()
    damaged[0, :2] = torch.tensor([torch.nan, torch.inf])
    norms = [name for name in state if name.endswith("norm1.weight")]
    linear = next(name for name in state if name.endswith("0.attn1.to_q.weight") and "context_blocks.1" in name)
    change(files, DIFFUSER, **{TIME: damaged, linear: state[linear] * 1e3, norms[0]: state[norms[0]].half()})
    report = verify(files)
    assert said(report) == [(TIME, "has 2 values that are NaN or infinite")]
    unusual = dict(said(report, serious=False))
    assert "others of its kind" in unusual[linear]
    assert "float16, most others are float32" in unusual[norms[0]]
    assert verify(files, numbers=False).ok


def test_whole_numbers_are_no_weights(files):
    change(files, "kl-f8.pth", **{"quant_conv.bias": torch.zeros(8, dtype=torch.int64)})
    assert said(verify(files)) == [("quant_conv.bias", "is int64; weights are floating-point numbers")]


def test_files_that_are_missing_or_cut(files):
    (files / "gpt2-merges.txt").unlink()
    assert any("gpt2-merges.txt" in what for _, what in said(verify(files, numbers=False)))
    whole = (files / "kl-f8.pth").read_bytes()
    (files / "kl-f8.pth").write_bytes(whole[:-100])
    ((_, what),) = said(verify(files))
    assert "kl-f8.pth cannot be read as weights: it is cut short" in what
    with pytest.raises(ValueError, match="no such file"):
        verify(files / "nowhere")


def test_what_cannot_be_read_is_said_once(files, capsys):
    (files / DIFFUSER).write_bytes((files / DIFFUSER).read_bytes()[:5000])
    assert main(["verify", str(files)]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith(
        f"{files}: not recognised\n\nfiles: {files / DIFFUSER} cannot be read as weights: it is cut"
    )
    assert shown.count("cannot be") == 1


def test_our_layout(tmp_path, tiny_pipeline, capsys):
    tiny_pipeline.save_pretrained(tmp_path)
    assert main(["verify", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "bank/codec-image" in shown
    assert "as expected" in shown
    file = next((tmp_path / "unet").glob("*.safetensors"))
    state = load_file(file)
    lost = sorted(state)[0]
    save_file({name: value for name, value in state.items() if name != lost}, file)
    assert main(["verify", str(tmp_path), "--json", "--headers"]) == 1
    record = json.loads(capsys.readouterr().out)
    (unet,) = [part for part in record["parts"] if part["name"] == "unet"]
    assert unet["findings"] == [{"entry": lost, "what": "is missing", "serious": True}]
