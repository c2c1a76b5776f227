"""What every modality can do in Python: the nine flows of three of them, and all of them at once."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conformance.conftest import ALL, FLOWS, TASK, same, saved
from versatile_diffusion import Condition, Context, VersatileDiffusionPipeline, load_embeddings, save_embeddings
from versatile_diffusion.modalities import ENTRY_POINTS, MODALITIES
from versatile_diffusion.tasks import TASKS

QUICK: dict[str, Any] = {"num_inference_steps": 1, "seed": 3}
Pipe = VersatileDiffusionPipeline


def test_the_table_and_the_tasks_know_it(pipe: Pipe) -> None:
    assert list(MODALITIES) == list(ALL)
    assert {task.name for task in pipe.tasks()} == {*TASK.values(), "dual-guided"}
    assert [TASKS[name].flow.data for name in TASK.values()] == [data for data, _ in TASK]
    assert TASKS["text-to-sound"].help == "Generate sounds from texts."
    assert dict(TASKS["sound-to-image"].null) == {"sound": "silence"}


def test_a_modality_that_cannot_be_loaded_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("smell", "tests.conformance.nothing:SMELL", ENTRY_POINTS)
    monkeypatch.setitem(vars(MODALITIES), "_entry_points", {"smell": broken})
    with pytest.warns(UserWarning, match=r"the modality 'smell' \(tests.conformance.nothing:SMELL\) cannot be loaded"):
        assert list(MODALITIES) == ["image", "text", "audio"]
    assert "smell" not in MODALITIES


def test_save_and_load(pipe: Pipe, model: str, values: dict[str, Any]) -> None:
    again = Pipe.from_pretrained(model)
    again.set_progress_bar_config(disable=True)
    for name in ALL:
        one, other = (p.run(TASK["sound", name], values[name], **QUICK) for p in (pipe, again))
        assert torch.allclose(one.latents, other.latents, atol=1e-5)


@pytest.mark.parametrize(("data", "context"), FLOWS)
def test_gradients_are_only_where_they_belong(pipe: Pipe, data: str, context: str) -> None:
    unet = pipe.unet
    latent = torch.randn(2, *pipe.bank.codecs[data].latent_shape(), generator=torch.Generator().manual_seed(0))
    tokens = torch.randn(2, 5, 192, generator=torch.Generator().manual_seed(1))
    with torch.enable_grad():
        unet(latent, torch.tensor([5, 9]), [Context(context, tokens)], data=data).square().mean().backward()
    touched = {".".join(name.split(".")[:2]) for name, p in unet.named_parameters() if p.grad is not None}
    unet.zero_grad(set_to_none=True)
    streams = {name for name in touched if name.startswith(("data.", "context."))}
    assert streams == {f"data.{data}", f"context.{context}"}
    assert any(name.startswith("time_embed") for name in touched)


@pytest.mark.parametrize(("data", "context"), FLOWS)
def test_a_task_makes_values_and_is_replayed(pipe: Pipe, values: dict[str, Any], data: str, context: str) -> None:
    output = pipe.run(TASK[data, context], values[context], num_outputs=2, **QUICK)
    assert (output.data, len(output.values), output.settings["task"]) == (data, 2, TASK[data, context])
    for value in output.values:
        assert same(data, MODALITIES[data].check(value), value)
    settings = json.loads(json.dumps(output.settings))
    again = pipe.replay(settings, lambda record: values[context])
    assert torch.equal(again.latents, output.latents)
    if not MODALITIES[context].plain:
        with pytest.raises(ValueError, match="has changed"):
            pipe.replay(settings, lambda record: MODALITIES[context].blanks[next(iter(MODALITIES[context].blanks))])


@pytest.mark.parametrize("name", ALL)
def test_the_forms_of_an_output(pipe: Pipe, values: dict[str, Any], name: str) -> None:
    task = TASK[name, "text"]
    array, tensor = (pipe.run(task, "a car", output_type=form, **QUICK).values for form in ("np", "pt"))
    if MODALITIES[name].forms:
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
    assert pipe.run(task, "a car", output_type="latent", **QUICK).values.shape[0] == 1
    assert pipe.run(task, "a car", output_type="context", **QUICK).values.shape[::2] == (1, 192)


@pytest.mark.parametrize("data", ALL)
@pytest.mark.parametrize("mixing", ["attention", "layer", "model", "join"])
def test_all_guide_together(pipe: Pipe, values: dict[str, Any], data: str, mixing: str) -> None:
    conditions = [Condition(name, values[name], weight=k + 1) for k, name in enumerate(ALL)]
    output = pipe.generate(data, conditions, mixing=mixing, guidance_scale=3, **QUICK)
    again = pipe.replay(output.settings, lambda record: next(v for n, v in values.items() if fits(n, v, record)))
    assert torch.equal(again.latents, output.latents)


def fits(name: str, value: Any, record: dict[str, Any]) -> bool:
    """Whether a value is the one that a record describes."""
    from versatile_diffusion.records.record import record_of

    known = record_of(None, value, MODALITIES[name].numbers)
    return isinstance(known, dict) and known["sha256"] == record["sha256"]


@pytest.mark.parametrize("data", ALL)
def test_rank_candidates_and_a_negative(pipe: Pipe, values: dict[str, Any], data: str) -> None:
    condition = Condition("sound", values["sound"], negative=MODALITIES["sound"].blanks["silence"])
    output = pipe.generate(data, [condition], num_outputs=2, candidates=2, rank=True, **QUICK)
    assert len(output.settings["kept"]) == 2
    assert sum(row.count for row in output.ranking) == 2


@pytest.mark.parametrize("data", ALL)
def test_a_start(pipe: Pipe, values: dict[str, Any], data: str) -> None:
    options = QUICK | {"num_inference_steps": 4, "start": values[data], "fidelity": 1.0}
    output = pipe.run(TASK[data, "text"], "a car", output_type="latent", **options)
    codec = pipe.bank.codecs[data]
    assert torch.allclose(output.latents, codec.encode([codec.fit(MODALITIES[data].check(values[data]))]), atol=1e-5)
    again = pipe.replay(output.settings, lambda record: values[data])
    assert torch.equal(again.latents, output.latents)


@pytest.mark.parametrize("name", ALL)
def test_encode_and_decode(pipe: Pipe, values: dict[str, Any], name: str, tmp_path: Path) -> None:
    value = values[name]
    tokens, latent = pipe.encode_context(value, name), pipe.encode_latent(value, name)
    assert (tokens.ndim, tuple(latent.shape)) == (2, tuple(pipe.bank.codecs[name].latent_shape()))
    file = save_embeddings(tmp_path / "latents.safetensors", latent, kind="latent", modality=name, pipe=pipe)
    there = load_embeddings(file)
    (back,) = pipe.decode_latent(there)
    assert same(name, MODALITIES[name].check(back), back)
    assert same(name, pipe.decode_latent(latent), back)  # found by its shape
    guided = pipe.generate("image", [Condition(name, tokens=tokens)], output_type="latent", **QUICK)
    plain = pipe.run(TASK["image", name], value, output_type="latent", **QUICK)
    assert torch.allclose(guided.latents, plain.latents, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_files(values: dict[str, Any], name: str, tmp_path: Path) -> None:
    record = MODALITIES[name]
    file = saved({name: values[name]}, tmp_path)[name]
    assert MODALITIES.of_suffix(file.suffix) is record
    (back,) = (record.check(value) for value in record.read(file))
    assert same(name, back, values[name])
    assert isinstance(record.line(back), str)
    with pytest.raises(ValueError, match=rf"an? {name}"):
        record.check(3)


def test_run_says_what_it_takes(pipe: Pipe) -> None:
    with pytest.raises(ValueError, match="unknown task 'text-to-music'"):
        pipe.run("text-to-music", "a car")
    with pytest.raises(ValueError, match="dual-guided needs values of text, image; given: text"):
        pipe.run("dual-guided", {"text": "a car"})
    with pytest.raises(ValueError, match="temperature: only for texts, not for modality 'sound'"):
        pipe.run("text-to-sound", "a car", temperature=0.5)
    with pytest.raises(ValueError, match="do not apply to sound"):
        pipe.run("text-to-sound", "a car", height=8)
