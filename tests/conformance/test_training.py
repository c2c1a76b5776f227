"""A model of every modality is trained on somebody's own data: all flows, with one context and with several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.conftest import ALL, TASK, saved
from versatile_diffusion import Flow, VersatileDiffusionPipeline
from versatile_diffusion.data.encoded import EncodedSet
from versatile_diffusion.tasks import TASKS, Task
from versatile_diffusion.training.diffuser.objective import DiffuserObjective
from versatile_diffusion.training.diffuser.own_data import own_data, settings_of
from versatile_diffusion.training.diffuser.pairs import Pairs

CPU = torch.device("cpu")


@pytest.fixture
def data(values: dict[str, Any], tmp_path: Path) -> Path:
    for stem in "abc":
        saved(values, tmp_path / "data", stem)
    return tmp_path / "data"


def test_own_data_of_three_modalities(model: str, data: Path, tmp_path: Path) -> None:
    what, _ = own_data(model, data, tmp_path / "run", CPU, batch=2)
    assert {task.name for task in what.options.tasks} == {*TASK.values()}
    encoded = EncodedSet.open(tmp_path / "run" / "encoded")
    assert {f"{kind}.{m}" for kind in ("latents", "tokens") for m in ALL} == set(encoded.index["made_by"])
    assert {name: len(values) for name, values in what.looks.items()} == dict.fromkeys(ALL, 1)
    unet = what.build()
    before = {name: p.clone() for name, p in unet.named_parameters()}
    (optimizer,) = what.optimizers(unet)
    for step in range(len(what.turns)):
        loss, _ = what.loss(unet, what.batch(step, torch.Generator().manual_seed(step)))
        assert loss.isfinite()
        loss.backward()
    optimizer.step()
    moved = {".".join(name.split(".")[:2]) for name, p in unet.named_parameters() if not torch.equal(p, before[name])}
    assert {f"{kind}.{m}" for kind in ("data", "context") for m in ALL} <= moved
    what.sample_sheet(unet, tmp_path / "sheet")
    names = {file.name for file in tmp_path.glob("sheet-*")}
    assert {f"sheet-{task}.png" for task in TASK.values()} - names == {"sheet-text-variation.png"}
    assert "sheet-text-to-sound.txt" in names
    what.export(unet, tmp_path / "export")
    again = VersatileDiffusionPipeline.from_pretrained(tmp_path / "export")
    assert {task.name for task in again.tasks()} >= {*TASK.values()}


def test_a_sample_without_a_sound_is_bad(model: str, data: Path, tmp_path: Path) -> None:
    (data / "c.snd").unlink()
    what, _ = own_data(model, data, tmp_path / "run", CPU)
    assert "1 without a sound" in str(what.remark)
    assert what.train_pairs.count + what.held_out.count == 2


def test_several_contexts_are_each_dropped_by_itself(
    pipe: VersatileDiffusionPipeline, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("all-to-sound", Flow("sound", ALL), {"text": "empty", "sound": "silence"})
    monkeypatch.setitem(TASKS, task.name, task)
    options = replace(
        settings_of(pipe),
        flows=(task.name,),
        mixture={task.name: 1},
        batch={"sound": 64},
        dropout=0.5,
        data_streams={"sound": {}},
    )
    each = {name: [[pipe.bank.codecs[name].fit(values[name]) if name == "image" else values[name]]] * 4 for name in ALL}
    pairs = Pairs.encode(each, {"sound": each["sound"]}, pipe.bank)
    what = DiffuserObjective(options, pairs, pairs, pipe.bank, {}, device=CPU)
    (batch,) = what.batch(0, torch.Generator().manual_seed(0))
    assert [context.stream for context in batch.contexts] == list(ALL)
    dropped = [
        (context.tokens == what.null[task.name][context.stream].to(context.tokens)).flatten(1).all(1)
        for context in batch.contexts
    ]
    patterns = {tuple(row) for row in torch.stack(dropped, 1).tolist()}
    assert len(patterns) == 2 ** len(ALL)
    unet = what.build()
    loss, parts = what.loss(unet, [batch])
    loss.backward()
    touched = {".".join(name.split(".")[:2]) for name, p in unet.named_parameters() if p.grad is not None}
    assert {"data.sound", *(f"context.{name}" for name in ALL)} <= touched
    assert set(parts) >= {task.name}
