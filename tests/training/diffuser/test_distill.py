"""Distillation: laws of its steps and targets, a run of each kind, and the model that comes out in use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import build_tiny_pipeline

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.recipes.export import export
from versatile_diffusion.recipes.run import run
from versatile_diffusion.sampling.fast import FAST
from versatile_diffusion.sampling.schedulers import SCHEDULERS
from versatile_diffusion.training.diffuser.distill import DistillObjective
from versatile_diffusion.training.diffuser.distillation import METHODS, STEPS, DistillSettings, Levels
from versatile_diffusion.training.diffuser.own_data import own_data

CPU = torch.device("cpu")
TASKS = ("text-to-image", "text-variation")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(("red", "green", "blue", "orange", "purple", "black")):
        Image.new("RGB", (20, 16), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} house\n")
    return folder


@pytest.fixture(scope="module")
def objective(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> DistillObjective:
    what, _ = own_data(str(model), data, tmp_path_factory.mktemp("run"), CPU, distill={}, batch=2)
    assert isinstance(what, DistillObjective)
    return what


def changed(objective: DistillObjective, **told: Any) -> DistillObjective:
    return replace(objective, options=replace(objective.options, distill=DistillSettings(**told)))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_step_is_that_of_the_sampler_and_can_be_read_from_its_ends(prediction: str) -> None:
    scheduler = SCHEDULERS["ddim"](prediction_type=prediction, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    levels = Levels(scheduler)
    assert levels.stops(4).tolist() == scheduler.timesteps.tolist() == [999, 749, 499, 249]
    generator = torch.Generator().manual_seed(0)
    latent, output = (torch.randn(4, 3, 2, 2, generator=generator) for _ in range(2))
    now = levels.stops(4)
    then = levels.below(now, 4)
    assert then.tolist() == [749, 499, 249, 0]
    stepped = levels.step(latent, output, now, then)
    for k, timestep in enumerate(scheduler.timesteps):
        ours = scheduler.step(output[k : k + 1], timestep, latent[k : k + 1], return_dict=False)[0]
        assert torch.allclose(stepped[k : k + 1], ours, atol=1e-5)
    velocity = levels.velocity(latent, output, now)
    assert torch.allclose(levels.velocity_to(latent, now, stepped, then), velocity, rtol=1e-3, atol=1e-4)
    assert torch.allclose(levels.step(latent, output, now, now), latent, atol=1e-5)


def test_each_timestep_ends_at_the_stop_below() -> None:
    levels = Levels(SCHEDULERS["ddim"]())
    asked = torch.tensor([1, 249, 250, 499, 500, 998, 999])
    assert levels.below(asked, 4).tolist() == [0, 0, 249, 249, 499, 749, 749]
    assert levels.below(asked, 1).tolist() == [0] * 7


@pytest.mark.parametrize("method", METHODS)
def test_a_student_that_is_the_teacher_without_guidance_has_nothing_to_learn_from_as_many_steps(
    method: str, objective: DistillObjective
) -> None:
    """Where the teacher takes no more steps than the student and no guidance, they agree; with guidance they do not."""
    if METHODS[method].bootstrap and METHODS[method].whole:
        pytest.skip("its target is the end of the trajectory, which one step of the teacher does not reach")
    for scale, nothing in ((1.0, True), (3.0, False)):
        guidance = dict.fromkeys(("image", "text"), scale)
        what = changed(objective, steps=4, teacher_steps=4, method=method, guidance=guidance)
        student = what.build().eval()
        losses = {}
        for step in range(len(what.turns)):
            (batch,) = what.batch(step, torch.Generator().manual_seed(step))
            if METHODS[method].bootstrap:  # from its stops a teacher's step is a student's
                stops = what.levels.stops(4)[: 1 + step % 3].repeat(len(batch.timestep))[: len(batch.timestep)]
                batch = replace(batch, timestep=stops)
            losses[batch.task.name] = float(what.loss(student, [batch])[0].detach())
        assert len(losses) == 4
        assert all((loss < 1e-6) == nothing for loss in losses.values()), losses


def test_guidance_alone_is_learnt_at_the_same_noise_level(objective: DistillObjective) -> None:
    what = changed(objective, steps=0, guidance={"image": 3.0})
    (batch,) = what.batch(0, torch.Generator().manual_seed(0))
    assert batch.task.name == "text-to-image"
    pipe = build_tiny_pipeline()
    latent = what.scheduler.add_noise(batch.latent, batch.noise, batch.timestep)
    (context,) = batch.contexts
    null = replace(context, tokens=what.null[batch.task.name]["text"].expand_as(context.tokens))
    given, without = (pipe.unet(latent, batch.timestep, [one], data="image") for one in (context, null))
    guided = without + 3.0 * (given - without)
    velocities = [what.levels.velocity(latent, one, batch.timestep) for one in (guided, given)]
    expected = torch.nn.functional.mse_loss(*velocities)
    assert float(what.loss(what.build().eval(), [batch])[0].detach()) == pytest.approx(
        float(expected.detach()), rel=1e-4
    )


def test_the_latents_learnt_from_are_those_that_sampling_passes(objective: DistillObjective) -> None:
    what = changed(objective, steps=4)
    student = what.build().eval()
    (batch,) = what.batch(0, torch.Generator().manual_seed(0))
    assert batch.timestep.tolist() == [999, 749, 499, 249] * 2
    with torch.no_grad():
        path = what._own_path(lambda x, t: student(x, t, batch.contexts, data="image"), batch)
    pipe, seen = what.pipeline(student), []
    pipe.set_progress_bar_config(disable=True)
    pipe.generate(
        "image",
        [Condition("text", tokens=batch.context.tokens)],
        latents=batch.noise[::4],
        seed=0,
        output_type="latent",
        callback_on_step_end=lambda pipe, step, t, tensors: seen.append(tensors["latents"]),
    )
    for step in range(3):
        assert torch.allclose(path[step + 1 :: 4], seen[step], atol=1e-3)


def test_a_few_steps_of_training_come_nearer_to_the_teacher(objective: DistillObjective) -> None:
    what = changed(objective, steps=2, teacher_steps=4, method="progressive", guidance={"image": 3.0})
    torch.manual_seed(0)
    student = what.build()
    (batch,) = what.batch(0, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-5)
    losses = []
    with torch.enable_grad():
        for _ in range(8):
            loss, parts = what.loss(student, [batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert {"text-to-image", "text-to-image/t999", "text-to-image/t499"} == set(parts)


@pytest.mark.parametrize("lora", [None, 2])
def test_a_run_makes_a_model_that_fast_runs(lora: int | None, model: Path, data: Path, tmp_path: Path) -> None:
    if lora:
        pytest.importorskip("peft")
    options: dict[str, Any] = {
        "flows": list(TASKS),
        "batch": 2,
        "distill": {"steps": 4, "teacher_steps": 4},
        "lr": 1e-2,
    }
    options |= {"lora": lora, "only": ["data", "context.text"]} if lora else {}
    out = tmp_path / "run"
    assert run("own-data", str(model), data, out, steps=2, device="cpu", options=options).finished
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["distill"]["steps"], settings["dropout"]) == (4, 0.0)
    pipe = VersatileDiffusionPipeline.from_pretrained(out / "export")
    pipe.set_progress_bar_config(disable=True)
    made = pipe.text_to_image("a red house", fast="4", seed=0)
    told = {name: made.settings[name] for name in ("fast", "num_inference_steps", "guidance_scale", "scheduler")}
    assert told == {"fast": "4", "num_inference_steps": 4, "guidance_scale": 1.0, "scheduler": "ddim"}
    assert made.cost.passes == 4
    assert torch.equal(pipe.replay(json.loads(json.dumps(made.settings))).latents, made.latents)
    assert len(pipe.text_variation("a house", fast="4", seed=0).texts) == 1
    with pytest.raises(ValueError, match="was distilled for text-to-image, text-variation only"):
        pipe.image_variation(Image.new("RGB", (16, 16)), fast="4", seed=0)
    plain = pipe.text_to_image("a red house", seed=0, output_type="latent", num_inference_steps=4, guidance_scale=1.0)
    again = build_tiny_pipeline().text_to_image(
        "a red house", seed=0, output_type="latent", num_inference_steps=4, guidance_scale=1.0
    )
    if lora:  # the model itself is as it was, whether its form has been used or not
        assert torch.equal(plain.latents, again.latents)
        assert "distilled" in made.settings
    else:
        assert torch.equal(plain.latents, made.latents)
        assert pipe.text_to_image("a", seed=0).cost.passes == 4
    pipe.save_pretrained(tmp_path / "copy")
    copied = VersatileDiffusionPipeline.from_pretrained(tmp_path / "copy")
    assert torch.equal(copied.text_to_image("a red house", fast="4", seed=0).latents, made.latents)
    assert (export(out, tmp_path / "again") / "distilled" / "4" / "form.json").is_file()


def test_guidance_distilled_keeps_the_number_of_steps(objective: DistillObjective, tmp_path: Path) -> None:
    what = changed(objective, steps=0)
    what.export(what.build(), tmp_path / "export")
    pipe = VersatileDiffusionPipeline.from_pretrained(tmp_path / "export")
    made = pipe.text_to_image("a", fast="one-pass", num_inference_steps=3, seed=0, output_type="latent")
    assert (made.cost.passes, made.settings["num_inference_steps"]) == (3, 3)
    assert torch.equal(pipe.replay(made.settings).latents, made.latents)


def test_the_names_of_forms_are_those_of_presets_and_wrong_settings_are_refused() -> None:
    names = [DistillSettings(steps=steps).name for steps in STEPS]
    assert names == [name for name, fast in FAST.items() if fast.distilled]
    for wrong, told in (
        ({"steps": 3}, "steps is 3"),
        ({"method": "magic"}, "magic"),
        ({"steps": 8, "teacher_steps": 4}, "teacher_steps is 4"),
        ({"guidance": {"image": -1}}, "guidance has"),
    ):
        with pytest.raises(ValueError, match=told):
            DistillSettings(**wrong)  # type: ignore[arg-type]
