"""The paper's trainings, and what they take: against the published sizes, against hand counts, and by law."""

from __future__ import annotations

from dataclasses import replace

import pytest

from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.diffuser.mixture import STAGES
from versatile_diffusion.training.diffuser.paper import PAPER, Phase, accumulations, multipliers
from versatile_diffusion.training.diffuser.plan import Machine, TrainingPlan

SMALL = (("model_channels", 32), ("channel_mult", [1, 2]), ("num_res_blocks", [1, 1]), ("with_attn", [True, False]))
SMALL += (("second_dim", [4, 4]), ("context_dim", 48), ("text_channels", 768), ("num_heads", 4))


def small(name: str) -> TrainingPlan:
    return TrainingPlan(replace(PAPER[name], size=SMALL, phases=(Phase(64, 1000), Phase(128, 500))), Machine(16))


def test_the_three_trainings_follow_each_other() -> None:
    assert [run.stage for run in PAPER.values()] == list(STAGES)
    assert [(run.batch, run.lr) for run in PAPER.values()] == [(2048, 1e-4), (1024, 1e-4), (512, 5e-5)]
    assert all(run.phases == (Phase(256, 30_000_000), Phase(512, 6_400_000)) for run in PAPER.values())
    assert PAPER["official"].steps == 58594 + 12500


@pytest.mark.parametrize("name", PAPER)
def test_every_setting_builds_the_streams_of_its_flows(name: str) -> None:
    plan = small(name)
    settings = plan.run.settings()
    assert settings.joint
    assert [task.name for task in settings.tasks] == list(STAGES[plan.run.stage])
    assert set(plan.parameters) == set(accumulations(plan.run.flows)) == {"global", *settings.streams}
    assert sum(settings.batch.values()) <= plan.run.batch


def test_multipliers_divide_by_what_is_added_up_only_where_gradients_count() -> None:
    run = PAPER["official"]
    assert accumulations(run.flows) == {
        "global": 4,
        "data.image": 2,
        "data.text": 2,
        "context.text": 2,
        "context.image": 2,
    }
    assert multipliers(run) == {
        "global": 0.1,
        "data.image": 0.1,
        "data.text": 1,
        "context.text": 0.1,
        "context.image": 0.1,
    }
    assert multipliers(run, "gradient")["global"] == pytest.approx(0.1 / 4)
    assert multipliers(run, "gradient")["data.text"] == pytest.approx(1 / 2)


def test_parameters_and_operations_are_the_published_ones() -> None:
    """Sizes of the published checkpoint; a guided step of two items at 512 pixels takes 1.61 TFLOP with a text."""
    run = replace(PAPER["dual-context"], phases=(Phase(512, 1),))
    plan = TrainingPlan(run, Machine())
    assert plan.parameters == {
        "global": 2_050_560,
        "data.image": 590_231_044,
        "context.image": 267_239_360,
        "context.text": 267_239_360,
    }
    assert 2 * plan.forward_flops["text-to-image"][512] == pytest.approx(1.61e12, rel=0.005)
    assert 2 * plan.forward_flops["image-variation"][512] == pytest.approx(1.64e12, rel=0.005)


def test_memory_time_and_bytes_follow_their_laws() -> None:
    plan = small("official")
    memory, state = plan.memory(), 20 * sum(plan.parameters.values())
    assert memory["ddp"] == state + plan.activations
    assert memory["ddp"] > memory["hsdp"] > memory["fsdp"]
    first, _ = plan.run.phases
    mean = sum(plan.forward_flops[name][64] for name in plan.run.flows) / 4
    assert plan.flops(first) == pytest.approx(3 * mean * 1000)
    assert plan.days(1e18) == pytest.approx(1e18 / (16 * 989e12 * 0.35) / 86400)
    assert TrainingPlan(plan.run, Machine(32)).days(1e18) == pytest.approx(plan.days(1e18) / 2)
    assert plan.cached_bytes(first)["image latent"] == 2 * 4 * 8 * 8
    assert plan.to_json()["parameters"] == plan.parameters
    assert all(name in str(plan) for name in ("ddp", "hsdp", "fsdp", *plan.run.flows))
    assert plan.run.flows == tuple(name for name in TASKS if name in plan.run.flows)


@pytest.mark.parametrize("options", [{"gpus": 0}, {"mfu": 0.0}, {"mfu": 1.5}, {"tflops": 0.0}])
def test_what_is_no_machine_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Machine(**options)  # type: ignore[arg-type]
