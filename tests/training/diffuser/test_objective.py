"""The diffuser's objective: flows, stages, null contexts, and the loss."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import LATENT, build_tiny_pipeline
from torch.utils._pytree import tree_leaves

from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.diffuser import objective as diffuser
from versatile_diffusion.training.diffuser.distillation import DistillSettings
from versatile_diffusion.training.diffuser.mixture import STAGES
from versatile_diffusion.training.diffuser.objective import DiffuserObjective
from versatile_diffusion.training.diffuser.pairs import Pairs, null_tokens
from versatile_diffusion.training.diffuser.promotion import promote
from versatile_diffusion.training.diffuser.settings import DiffuserSettings
from versatile_diffusion.training.engine.loop import LoopSettings, train

TEXTS = [["red apple", "an apple"], ["blue house", "a house", "the house"], ["green dog", "dog"], ["a cat", "red cat"]]
SMALL = DiffuserSettings(
    stage="official",
    unet={"width": 16, "multipliers": (1, 2), "depth": 1, "attends": (True, False), "heads": 2, "norm_groups": 4},
    data_streams={"image": {"channels": 4}, "text": {"width": LATENT, "positions": 4}},
    context_streams={"image": {"width": 192}, "text": {"width": 192}},
    mixture={"text-to-image": 2, "image-variation": 1, "image-to-text": 1, "text-variation": 1},
    batch={"image": 4, "text": 6},
)


@pytest.fixture(scope="module")
def bank():
    return build_tiny_pipeline().bank


@pytest.fixture(scope="module")
def values(colours):
    return {"image": [[picture] for picture in colours], "text": TEXTS}


@pytest.fixture(scope="module")
def colours():
    from PIL import Image

    return [Image.new("RGB", (16, 16), name) for name in ("red", "blue", "green", "orange")]


@pytest.fixture
def objective(bank, values, colours):
    def make(start=None, **changes) -> DiffuserObjective:
        pairs = Pairs.encode(values, values, bank)
        looks = {"image": colours, "text": [texts[0] for texts in TEXTS]}
        return DiffuserObjective(replace(SMALL, **changes), pairs, pairs, bank, looks, start)

    return make


def test_every_task_gets_its_share_of_the_steps(objective) -> None:
    turns = objective().turns
    assert Counter(task.name for task in turns) == SMALL.mixture
    assert turns[0] != turns[1] or len(set(turns)) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_the_streams_of_its_tasks_only(objective, stage: str) -> None:
    unet = objective(stage=stage).build()
    flows = [TASKS[name].flow for name in STAGES[stage]]
    assert set(unet.data) == {flow.data for flow in flows}
    assert set(unet.context) == {context for flow in flows for context in flow.contexts}


def test_a_stage_takes_over_the_one_before_exactly(objective) -> None:
    torch.manual_seed(1)
    basic = objective(stage="basic").build()
    dual = objective(start=basic, stage="dual_context").build()
    later = dual.state_dict()
    assert all(torch.equal(later[name], weight) for name, weight in basic.state_dict().items())
    with pytest.raises(ValueError, match="lacks"):
        promote(basic, dual)


def test_a_retained_flow_is_trained_to_stay_as_it_was(objective) -> None:
    torch.manual_seed(1)
    before = objective(joint=True).build()
    with torch.no_grad():  # as built, it says zero to everything
        for parameter in before.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    what = objective(start=before, joint=True, retain=("text-to-image",))
    unet = what.build()
    batch = what.batch(0, torch.Generator().manual_seed(0))
    parts = {name: float(part.detach()) for name, part in what.loss(unet, batch)[1].items()}
    assert parts["text-to-image"] == 0.0
    assert parts["image-to-text"] > 0.1
    assert what.evaluate(unet)["text-to-image"] > 0.1  # held-out losses are those of the data all the same
    assert not any(parameter.requires_grad for parameter in before.parameters())
    with torch.no_grad():
        unet.context["text"][0].proj_out.weight.add_(0.1)
    (held,) = (one for one in batch if one.task.name == "text-to-image")
    noisy = what.scheduler.add_noise(held.latent, held.noise, held.timestep)
    outputs = [one(noisy, held.timestep, held.contexts, data="image") for one in (unet, before)]
    moved = float((outputs[0] - outputs[1]).detach().pow(2).mean())
    assert float(what.loss(unet, [held])[1]["text-to-image"].detach()) == pytest.approx(moved, rel=1e-5)


def test_a_flow_that_is_not_trained_cannot_be_retained(objective) -> None:
    with pytest.raises(ValueError, match=r"retain names text-to-audio; the flows that are trained are text-to-image, "):
        replace(SMALL, retain=("text-to-audio",))
    with pytest.raises(ValueError, match="retain and distill cannot be combined"):
        replace(SMALL, retain=("text-to-image",), distill=DistillSettings())
    with pytest.raises(ValueError, match="retain needs a diffuser to begin from"):
        objective(retain=("text-to-image",))


def test_unknown_stage() -> None:
    with pytest.raises(ValueError, match="basic, dual_context, official"):
        replace(SMALL, stage="first")


def test_batches_are_a_function_of_the_step(objective) -> None:
    one, other = objective(), objective()
    for step in range(5):
        (left,), (right,) = (o.batch(step, torch.Generator().manual_seed(step)) for o in (one, other))
        assert left.task == right.task
        assert torch.equal(left.latent, right.latent)
        assert torch.equal(left.context.tokens, right.context.tokens)


def test_dropped_contexts_are_the_null_context(objective, bank) -> None:
    everything = objective(dropout=1.0)
    for step in range(len(everything.turns)):
        (batch,) = everything.batch(step, torch.Generator().manual_seed(step))
        null = null_tokens(batch.task, bank)
        assert torch.equal(batch.context.tokens, null.expand_as(batch.context.tokens))
    (kept,) = objective(dropout=0.0).batch(0, torch.Generator().manual_seed(0))
    assert not torch.equal(kept.context.tokens, null_tokens(kept.task, bank).expand_as(kept.context.tokens))


def test_dropout_by_context(objective) -> None:
    what = objective(dropout={"text": 1.0})
    for step in range(len(what.turns)):
        (batch,) = what.batch(step, torch.Generator().manual_seed(step))
        null = what.null[batch.task.name][batch.context.stream].expand_as(batch.context.tokens)
        assert torch.equal(batch.context.tokens, null) == (batch.context.stream == "text")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_right_answer_has_no_loss(objective, prediction: str) -> None:
    what = objective(prediction=prediction)
    (batch,) = what.batch(0, torch.Generator().manual_seed(0))
    velocity = what.scheduler.get_velocity(batch.latent, batch.noise, batch.timestep)
    answer = {"epsilon": batch.noise, "v_prediction": velocity, "sample": batch.latent}[prediction]
    loss, parts = what.loss(lambda *_, **__: answer, [batch])
    assert float(loss) == 0
    assert [name.split("/")[0] for name in parts] == [batch.task.name] * 5


def test_a_weight_on_a_loss_is_of_the_training_alone(objective) -> None:
    plain, weighed = objective(), objective(loss_weights={"text": 0.15})
    torch.manual_seed(0)
    unet = plain.build()
    for step in range(len(plain.turns)):
        (one,), (other,) = (what.batch(step, torch.Generator().manual_seed(0)) for what in (plain, weighed))
        (loss, parts), (less, same) = plain.loss(unet, [one]), weighed.loss(unet, [other])
        assert less.item() / loss.item() == pytest.approx(0.15 if one.task.flow.data == "text" else 1.0)
        assert float(parts[one.task.name]) == float(same[one.task.name])  # what the log tells is not weighed
    with torch.no_grad():
        assert plain.evaluate(unet) == weighed.evaluate(unet)


def test_runs_from_before_there_were_weights_on_losses_go_on(objective) -> None:
    assert "loss_weights" not in objective().settings()
    assert objective(loss_weights={"text": 0.15}).settings()["loss_weights"] == {"text": 0.15}
    assert not {"noises", "lowest_timestep"} & set(objective().settings())
    assert objective(noises={"text": 4}).settings()["noises"] == {"text": 4}


def test_a_joint_step_adds_the_gradients_of_all_flows_with_their_weights(objective) -> None:
    what = objective(joint=True, mixture={**SMALL.mixture, "text-variation": 0.5})
    torch.manual_seed(0)
    unet = what.build()
    batch = what.batch(3, torch.Generator().manual_seed(0))
    assert [one.task.name for one in batch] == list(STAGES["official"])
    assert {one.task.name: len(one.latent) for one in batch}["image-to-text"] == SMALL.batch["text"]
    loss, parts = what.loss(unet, batch)
    loss.backward()
    whole = {name: p.grad.clone() for name, p in unet.named_parameters()}
    assert float(loss) == pytest.approx(sum(one.weight * float(parts[one.task.name]) for one in batch))
    unet.zero_grad()
    for one in batch:
        (one.weight * what._loss(unet, one)[0]).backward()
    for name, p in unet.named_parameters():
        assert torch.allclose(whole[name], p.grad, atol=1e-6), name


def test_some_flows_of_a_stage_alone(objective) -> None:
    what = objective(flows=("image-to-text",))
    unet = what.build()
    assert (list(unet.data), list(unet.context)) == (["text"], ["image"])
    assert {task.name for task in what.turns} == {"image-to-text"}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("mode", ["update", "gradient"])
def test_multiplier_zero_freezes_wholly(objective, mode: str, optimizer: str) -> None:
    frozen = {"context": 0, "data.text": 0}
    what = objective(multipliers=frozen, multiply=mode, optimizer=optimizer, weight_decay=0.5, muon_lr=0.02)
    torch.manual_seed(0)
    unet = what.build()
    optimizers = what.optimizers(unet)
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    for step in range(len(what.turns)):
        what.loss(unet, what.batch(step, torch.Generator().manual_seed(step)))[0].backward()
        for one in optimizers:
            one.step()
    with_state = {id(p) for one in optimizers for p in one.state}
    moved = {name for name, p in unet.named_parameters() if not torch.equal(p, before[name])}
    assert {".".join(name.split(".")[:2]) for name in moved} == {"data.image", "time_embed.mlp"}
    still = [p for name, p in unet.named_parameters() if name.startswith(("context", "data.text"))]
    assert not any(id(p) in with_state for p in still)


def test_context_layers_alone_can_be_trained(objective) -> None:
    what = objective(multipliers={"global": 0, "data": 0})
    unet = what.build()
    loss, _ = what.loss(unet, what.batch(0, torch.Generator().manual_seed(0)))
    loss.backward()
    touched = {".".join(name.split(".")[:2]) for name, p in unet.named_parameters() if p.grad is not None}
    assert touched == {"context.text"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"flows": ("text-to-music",)}, "unknown flow text-to-music; allowed: text-to-image"),
        ({"mixture": {"text-to-image": 1}}, "no weight for image-variation"),
        ({"dropout": {"text": 2}}, "from 0 to 1"),
        ({"multipliers": {"data.audio": 1}}, "allowed: global, data, context, data.image"),
        ({"multipliers": {"global": 0, "data": 0, "context.text": 0}}, "text-to-image has no trainable weights"),
        ({"multiply": "rate"}, "update, gradient"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(SMALL, **changes)


def test_an_image_step_leaves_the_text_stream_alone(objective) -> None:
    what = objective(stage="official")
    unet = what.build()
    step = next(i for i, task in enumerate(what.turns) if task.name == "image-variation")
    loss, _ = what.loss(unet, what.batch(step, torch.Generator().manual_seed(0)))
    loss.backward()
    touched = {".".join(name.split(".")[:2]) for name, p in unet.named_parameters() if p.grad is not None}
    assert {"data.image", "context.image"} <= touched
    assert not touched & {"data.text", "context.text"}


def test_a_run_learns_and_exports_a_pipeline(objective, tmp_path: Path) -> None:
    what = objective(lr=3e-3)
    before = what.evaluate(what.build().eval())
    outcome = train(what, LoopSettings(steps=60, warmup=5, ema=0.9), tmp_path)
    assert outcome.finished
    assert sum(outcome.metrics.values()) < 0.97 * sum(before.values())
    assert len(list((tmp_path / "samples").iterdir())) == 6
    pipe = VersatileDiffusionPipeline.from_pretrained(tmp_path / "export")
    assert len(pipe.text_to_image("a red apple", num_inference_steps=2, seed=0).images) == 1
    assert {task.name for task in pipe.tasks()} >= set(STAGES["official"])


EVERYTHING = {
    "mixture": {"text-to-image": 1, "image-to-text": 0.5},
    "flows": ("text-to-image", "image-to-text"),
    "joint": True,
    "dropout": 0.5,
    "muon_lr": 0.02,
    "noises": {"text": 2},
}


def losses(out: Path) -> list[dict[str, float]]:
    """The log without what differs between equal runs, and without what was measured in between."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    timed = ("seconds", "items_per_second", "memory_gib")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines if "loss" in line]


def test_a_run_goes_on_exactly_and_measuring_in_between_changes_nothing(
    objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffuser, "FEWEST_MEASURED", 4)

    def made() -> DiffuserObjective:
        what = objective(**EVERYTHING, unet={**SMALL.unet, "multipliers": (1,), "attends": (True,)})
        what.looks = {name: values[:1] for name, values in what.looks.items()}
        what.sample_sheet = lambda *_: None
        what.export = lambda _, folder: folder.mkdir()
        return what

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = LoopSettings(steps=4, warmup=1, log_every=1, eval_minutes=None, sample_minutes=None)
    train(made(), settings, whole)
    what = made()
    del what.sample_sheet  # the real one
    draw = what.numbered_batch

    def stop_at_the_second(step: int, *more: Any) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(step, *more)

    what.numbered_batch = stop_at_the_second
    assert train(what, replace(settings, eval_minutes=0, sample_minutes=0), broken).step == 2
    assert len(list((broken / "samples").glob("*-text-to-image.png"))) == 2
    assert train(made(), replace(settings, eval_minutes=0), broken).finished
    assert losses(broken) == losses(whole)
    assert len(losses(whole)) == 4
    left, right = (torch.load(out / "checkpoint.pt", weights_only=True) for out in (broken, whole))
    assert len(left["optimizers"]) == 2  # Muon and AdamW
    for part in ("module", "average", "optimizers"):
        for mine, theirs in zip(tree_leaves(left[part]), tree_leaves(right[part]), strict=True):
            assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs


def test_activations_computed_again_give_the_same_run(objective, tmp_path: Path) -> None:
    passes: dict[bool, int] = {}
    for again in (False, True):
        what, calls = objective(**EVERYTHING), []
        build = what.build

        def hooked(build=build, calls=calls):
            unet = build()
            unet.data["image"][1].register_forward_pre_hook(lambda module, _: calls.append(module.training))
            return unet

        what.build = hooked
        what.evaluate = what.sample_sheet = lambda *_: {}
        what.export = lambda _, folder: folder.mkdir()
        settings = LoopSettings(steps=2, warmup=0, log_every=1, activation_checkpointing=again)
        train(what, settings, tmp_path / str(again))
        passes[again] = sum(calls)
    assert passes == {False: 2, True: 4}
    for mine, theirs in zip(losses(tmp_path / "True"), losses(tmp_path / "False"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_the_objective_starts_new_contexts_as_copies_if_asked_to(objective) -> None:
    torch.manual_seed(1)
    basic = objective(stage="basic").build()
    for new_contexts, same in (("copied", True), ("fresh", False)):
        unet = objective(start=basic, stage="dual_context", new_contexts=new_contexts).build()
        pairs = zip(unet.context["text"].parameters(), basic.context["image"].parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs) is same


def test_settings_of_earlier_versions_have_no_way_for_new_data(objective) -> None:
    assert "new_data" not in objective().settings()
    assert objective(new_data="copied").settings()["new_data"] == "copied"


@pytest.mark.parametrize("joint", [False, True])
def test_items_of_a_step_are_those_of_its_batches(objective, joint: bool) -> None:
    what = objective(joint=joint, noises={"text": 3})
    for step in range(len(what.turns)):
        batch = what.batch(step, torch.Generator().manual_seed(0))
        assert what.items(step) == sum(len(one.context.tokens) for one in batch)


def test_noise_levels_of_one_item_share_its_context(objective) -> None:
    many = objective(flows=("image-to-text",), noises={"text": 3}, lowest_timestep={"image-to-text": 400}, dropout=0.0)
    (batch,) = many.batch(0, torch.Generator().manual_seed(0))
    assert len(batch.context.tokens) == 6
    assert len(batch.latent) == len(batch.noise) == len(batch.timestep) == 18
    assert torch.equal(batch.latent[0], batch.latent[2])
    assert not torch.equal(batch.noise[0], batch.noise[2])
    assert batch.timestep.min() >= 400
    assert batch.timestep.view(6, 3).sort(1).values.diff(dim=1).unique().tolist() == [200]

    module = many.build()
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    loss, _ = many.loss(module, [batch])
    loss.backward()
    found = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    context = replace(batch.context, tokens=batch.context.tokens.repeat_interleave(3, 0))
    apart, _ = many.loss(module, [replace(batch, contexts=(context,))])
    apart.backward()
    assert loss.item() == pytest.approx(apart.item(), rel=1e-5)
    for mine, theirs in zip(found, (p.grad for p in module.parameters() if p.grad is not None), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6)


def test_held_out_items_are_measured_at_all_noise_levels_once(objective) -> None:
    plain, many = objective(), objective(noises={"text": 4, "image": 2}, lowest_timestep={"text": 900})
    module = plain.build()
    assert plain.evaluate(module) == many.evaluate(module)


@pytest.mark.parametrize(
    "changes",
    [
        {"noises": {"text": 0}},
        {"noises": {"sound": 2}},
        {"noises": {"text": 2.0}},
        {"lowest_timestep": {"image": 1000}},
        {"lowest_timestep": {"image": -1}},
    ],
)
def test_noise_levels_out_of_range_are_refused(changes) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=rf"{name} has .*; allowed: .*text-to-image"):
        replace(SMALL, **changes)
