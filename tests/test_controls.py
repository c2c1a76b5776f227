"""The one table of options: what comes from it, and that nothing repeats it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.applications.variation import METHODS
from versatile_diffusion.cli.options import parameters
from versatile_diffusion.controls import (
    COLOURS,
    CONDITION,
    DECODING,
    MIXINGS,
    REQUEST,
    SCHEDULERS,
    SIZE,
    Controls,
    by_option,
)
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.pipeline.request import Request
from versatile_diffusion.sampling import rules, schedulers
from versatile_diffusion.tasks import NAMED, TASKS

ROOT = Path(__file__).parents[1]
BOUNDED = [control for control in REQUEST.values() if control.is_number]


def test_names_of_tables_elsewhere_are_theirs() -> None:
    assert set(SCHEDULERS) == set(schedulers.SCHEDULERS)
    assert set(MIXINGS) == set(rules.MIXINGS)
    assert set(COLOURS) == set(METHODS)


def test_every_field_of_a_request_and_of_a_condition_is_in_the_table() -> None:
    assert {f.name for f in fields(Request)} == {*REQUEST, "data", "conditions"}
    assert {f.name for f in fields(Condition)} == {*CONDITION, "modality", "value", "tokens"}
    assert {*SIZE, *DECODING} < REQUEST.keys()
    assert len(by_option(REQUEST)) == len(REQUEST)


@pytest.mark.parametrize("control", BOUNDED, ids=lambda control: control.name)
def test_a_number_outside_its_range_is_refused_with_the_range(control) -> None:
    given = {"start": "x", "fidelity": 0.5} if control.name == "fidelity" else {}
    for wrong in (control.least - 1, control.most + 1):
        if wrong < float("inf"):
            with pytest.raises(ValueError, match=f"{control.name} is .*; it must be .*from {control.least:g}"):
                Request("image", (Condition("text", "a"),), **{**given, control.name: wrong})


@pytest.mark.parametrize("task", NAMED.values(), ids=lambda task: task.name)
def test_methods_list_the_options_of_their_flow(task) -> None:
    method = inspect.signature(getattr(VersatileDiffusionPipeline, task.name.replace("-", "_")))
    own = {name for name, control in REQUEST.items() if control.belongs(task.flow)}
    assert own < method.parameters.keys()
    assert not (REQUEST.keys() - own) & method.parameters.keys()
    assert {"seed", "generator", "output_type"} < method.parameters.keys()
    assert all(p.kind is not p.VAR_KEYWORD for p in method.parameters.values())


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_commands_list_the_options_of_their_flow(task) -> None:
    own = {control for control in REQUEST.values() if control.belongs(task.flow)}
    listed = {parameter.name for parameter in parameters(task.flow)}
    assert {control.option for control in own if not control.hidden} < listed
    assert not {control.option for control in set(REQUEST.values()) - own} & listed


def test_generate_lists_them_all_with_types_and_defaults() -> None:
    listed = inspect.signature(VersatileDiffusionPipeline.generate).parameters
    assert {name: listed[name].default for name in REQUEST} == {f.name: f.default for f in fields(Controls)}
    assert listed["num_inference_steps"].annotation == "int"


def test_the_types_for_editors_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "option_types.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_option_belongs_to_flows() -> None:
    images, texts = Flow("image", ("text",)), Flow("text", ("image",))
    assert REQUEST["height"].belongs(images)
    assert not REQUEST["height"].belongs(texts)
    assert REQUEST["top_k"].belongs(texts)
    assert not REQUEST["mixing"].belongs(images)
