"""Which flow is trained when, and with how many items."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.diffuser.mixture import Mixture

WEIGHTS = {"text-to-image": 3, "image-variation": 1, "image-to-text": 2}
SIZES = {"image": 4, "text": 6, "image-variation": 2}


def test_turns_share_the_steps_and_spread_them() -> None:
    mixture = Mixture(WEIGHTS, SIZES)
    taken = [mixture.at(step) for step in range(12)]
    assert all(len(one) == 1 and one[0][1] == 1.0 for one in taken)
    names = [one[0][0].name for one in taken]
    assert Counter(names) == {name: 2 * share for name, share in WEIGHTS.items()}
    assert names[:6] == names[6:]
    assert sum(a == b for a, b in pairwise(names)) <= 2


def test_a_joint_step_takes_all_flows_with_their_weights() -> None:
    mixture = Mixture({"text-to-image": 1, "image-to-text": 0.25}, SIZES, joint=True)
    for step in (0, 5):
        assert mixture.at(step) == [(TASKS["text-to-image"], 1.0), (TASKS["image-to-text"], 0.25)]
    assert mixture.items(0) == mixture.items(5) == 10


@pytest.mark.parametrize("joint", [False, True])
def test_losses_are_weighed_by_flow_or_by_what_is_generated(joint: bool) -> None:
    mixture = Mixture(WEIGHTS, SIZES, joint, loss_weights={"text": 0.15, "image-variation": 0.5})
    taken = {task.name: weight for step in range(6) for task, weight in mixture.at(step)}
    times = {name: share if joint else 1 for name, share in WEIGHTS.items()}
    expected = {"text-to-image": 1.0, "image-variation": 0.5, "image-to-text": 0.15}
    assert taken == pytest.approx({name: weight * times[name] for name, weight in expected.items()})


def test_sizes_by_flow_come_before_those_by_what_is_generated() -> None:
    mixture = Mixture(WEIGHTS, SIZES)
    assert {task.name: mixture.size(task) for task in mixture.tasks} == {
        "text-to-image": 4,
        "image-variation": 2,
        "image-to-text": 6,
    }
    assert [mixture.items(step) for step in range(6)] == [mixture.size(task) for task in mixture.turns]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weights": {}}, "text-to-image"),
        ({"weights": {"text-to-image": 0.5}}, "integers"),
        ({"weights": {"text-to-image": 0}}, "above 0"),
        ({"weights": {"text-to-image": -1}, "joint": True}, "above 0"),
        ({"sizes": {"image": 4}}, "no size for image-to-text"),
        ({"loss_weights": {"words": 0.5}}, "words.*by text-to-image"),
        ({"loss_weights": {"text": 0}}, "above 0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Mixture(**{"weights": WEIGHTS, "sizes": SIZES} | changes)
