"""The plan, in the paper's order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from versatile_diffusion.layers.plan import unet_plan

OFFICIAL = "D>DC>DC>D>DC>DC>D>DC>DC>D>D>D>" + "DCD" + "<D<D<DD<DC<DC<DCD<DC<DC<DCD<DC<DC<DC" + "D"


def letters(plan) -> str:
    return "".join("<" * stage.pops + "D" + "C" * (stage.attention is not None) + ">" * stage.pushes for stage in plan)


def test_official_order():
    plan = unet_plan(320, (1, 2, 4, 4), 2, (True, True, True, False))
    assert letters(plan) == OFFICIAL
    assert len(plan) == 30
    assert [s.attention for s in plan if s.attention is not None] == list(range(16))
    assert plan[0].wide_in == 0
    assert [s.wide_out for s in plan if s.kind in ("stem", "down", "up", "out")] == [
        *(320, 320, 640, 1280),
        *(1280, 1280, 640),
        320,
    ]


def test_emoji_order():
    plan = unet_plan(48, (1, 2, 3), 1, (False, True, True))
    assert letters(plan) == "D>D>D>DC>D>DC>" + "DCD" + "<DC<DCD<DC<DCD<D<D" + "D"


def test_depth_per_level():
    plan = unet_plan(32, (1, 1, 2), (2, 2, 1), (True, True, False))
    assert letters(plan) == "D>DC>DC>D>DC>DC>D>D>" + "DCD" + "<D<DD<DC<DC<DCD<DC<DC<DC" + "D"


@given(
    levels=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.booleans()), min_size=1, max_size=4),
    width=st.sampled_from([8, 32]),
)
def test_widths_and_skips_fit_in_any_plan(levels, width):
    multipliers, depth, attends = zip(*levels, strict=True)
    wide, skips = 0, []
    for stage in unet_plan(width, multipliers, depth, attends):
        assert stage.wide_in == wide + (skips.pop() if stage.pops else 0)
        wide = stage.wide_out
        if stage.pushes:
            skips.append(wide)
    assert not skips
    assert wide == width


def test_a_plan_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 depths, 3 attends and 3 multipliers"):
        unet_plan(32, (1, 2, 3), (1, 1), (True, True, True))
    with pytest.raises(ValueError, match="at least one"):
        unet_plan(32, (), 1, ())
