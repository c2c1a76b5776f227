"""Settings from a file: what is taken, and how each mistake is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from tiny import build_tiny_pipeline

from versatile_diffusion.training.diffuser.lora import LoraSettings
from versatile_diffusion.training.diffuser.own_data import change_settings, settings_of
from versatile_diffusion.training.diffuser.settings import DiffuserSettings
from versatile_diffusion.training.engine.config import LoopSettings
from versatile_diffusion.training.engine.config_file import DIFFUSER, LOOP, OF_THE_MODEL, read_changes, read_config


def test_every_field_is_a_key_or_decided_by_the_model() -> None:
    assert set(LOOP) == {field.name for field in fields(LoopSettings)}
    assert {*DIFFUSER, *OF_THE_MODEL} == {field.name for field in fields(DiffuserSettings)}
    assert not set(LOOP) & set(DIFFUSER)


def test_the_defaults_are_allowed(tmp_path: Path) -> None:
    """What settings.json holds of a run can be given again."""
    plain = settings_of(build_tiny_pipeline())
    told = {name: getattr(plain, name) for name in DIFFUSER}
    (tmp_path / "all.json").write_text(json.dumps(told | vars(LoopSettings(steps=3))))
    config = read_config(tmp_path / "all.json")
    assert replace(plain, **read_changes(plain, config.diffuser)) == plain
    assert LoopSettings(**config.loop) == LoopSettings(steps=3)


def test_options_win_over_the_file() -> None:
    told = {
        "mixture": {"image-to-text": 3},
        "batch": {"text-to-image": 2},
        "lora": {"rank": 2, "targets": ["data"]},
        "not_muon": ["proj"],
        "dropout": {"image": 0.2},
    }
    plain = settings_of(build_tiny_pipeline())
    options = change_settings(plain, None, [], None, None, None, told)
    assert (options.lora, options.not_muon) == (LoraSettings(("data",), 2), ("proj",))
    assert [task.name for task in options.flow_mixture.tasks] == ["image-to-text"]
    sizes = {task.name: options.flow_mixture.size(task) for task in options.flow_mixture.tasks}
    assert (sizes, options.batch["text-to-image"]) == ({"image-to-text": 32}, 2)
    over = change_settings(plain, ["text-to-image"], ["context.text"], 4, 1e-5, 6, told)
    assert {name: share for name, share in over.mixture.items() if share} == {"text-to-image": 1}
    assert (over.lora, over.lr, set(over.batch.values())) == (LoraSettings(("context.text",), 4), 1e-5, {6})


def test_options_leave_what_they_do_not_speak_of() -> None:
    plain = settings_of(build_tiny_pipeline())

    def with_file(told: dict[str, Any], only: Sequence[str] = (), lora: int | None = None) -> DiffuserSettings:
        return change_settings(plain, None, only, lora, None, None, told)

    adapted = with_file({"lora": {"rank": 8}}, ["data.text", "data.image"])
    assert (adapted.lora, adapted.multipliers) == (LoraSettings(("data.text", "data.image"), 8), {})
    slow = with_file({"multipliers": {"global": 0.1, "data": 0.5}}, ["global", "context"])
    streams = ["global", *plain.streams]
    expected = {name: 0.1 if name == "global" else float(name.startswith("context")) for name in streams}
    assert slow.learning.of(streams) == expected
    told = {"lora": {"targets": ["data"], "alpha": 16.0, "name": "x"}}
    assert with_file(told, lora=4).lora == LoraSettings(("data",), 4, 16.0, "x")
    assert with_file(told, ["context"], 4).lora == LoraSettings(("context",), 4, 16.0, "x")


def test_a_file_may_freeze_what_only_the_chosen_flows_do_without(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"multipliers": {"context.text": 0, "data": 0, "global": 0}}')
    told = read_config(file).diffuser
    plain = settings_of(build_tiny_pipeline())
    assert change_settings(plain, ["image-variation"], [], None, None, None, told).learning.factors["data"] == 0
    with pytest.raises(ValueError, match="text-to-image has no trainable weights"):
        change_settings(plain, None, [], None, None, None, told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object; it must be one"),
        ('{"min_srn": 5}', "unknown setting 'min_srn'; did you mean 'min_snr'? allowed: "),
        ('{"flows": ["text-to-image"]}', "--flows, --only and --aspect are options only"),
        ('{"lr": "fast"}', 'lr is "fast"; it must be a valid number'),
        ('{"lr": true}', "lr is true; it must be a valid number"),
        ('{"lr": NaN}', "lr is NaN; it must be a finite number"),
        ('{"lr": 0}', "lr is 0; it must be greater than 0"),
        ('{"weight_decay": -1}', "weight_decay is -1; it must be greater than or equal to 0"),
        ('{"steps": 1.5}', "steps is 1.5; it must be a valid integer"),
        ('{"joint": 1}', "joint is 1; it must be a valid boolean"),
        ('{"clip": "no"}', 'clip is "no"; it must be a valid number or null'),
        ('{"posthoc": [0.1, "a"]}', 'posthoc.1 is "a"; it must be a valid number'),
        ('{"mixture": [1]}', "mixture is [1]; it must be an object"),
        ('{"lora": {"range": 1}}', "lora has range; allowed: targets, rank, alpha, name"),
        ('{"mixture": {"text-to-image": "a"}}', 'mixture.text-to-image is "a"; it must be a valid number'),
        ('{"dropout": "a"}', 'dropout is "a"; it must be a valid number or it must be an object'),
        ('{"lr": 0, "steps": "a"}', 'lr is 0; it must be greater than 0; steps is "a"; it must be a valid integer'),
        ('{"lora": {"rank": 0}}', "a rank of 1 or more"),
        ('{"schedule": "square"}', "schedule is 'square'; allowed: constant, linear, cosine"),
        ('{"eval_minutes": -1}', "eval_minutes is -1; it must be greater than 0"),
        ('{"optimizer": "adamant"}', "optimizer is 'adamant'; allowed: adamw, adam, sgd, adamw-8bit"),
        ('{"prediction": "noise"}', "prediction is 'noise'; allowed: epsilon, v_prediction, sample"),
        ('{"prediction": "epsilon", "zero_terminal_snr": true}', "zero_terminal_snr needs prediction"),
        ('{"min_snr": 0}', "min_snr is 0; it must be above 0"),
        ('{"noise_offset": -1}', "noise_offset is -1; it must be 0 or more"),
        ('{"dropout": 2}', "dropout is 2; it must be from 0 to 1"),
        ('{"dropout": {"sound": 0.1}}', "dropout has sound; allowed: "),
        ('{"batch": {"image": 0}}', "batch has {'image': 0}; allowed: integers from 1"),
        ('{"batch": 8}', "batch is 8; it must be an object"),
        ('{"retain": ["text-to-sound"]}', "retain names text-to-sound; the flows that are trained are text-to-image"),
        ('{"retain": "text-to-image"}', 'retain is "text-to-image"; it must be'),
        ('{"mixture": {"text-to-sound": 1}}', "mixture has text-to-sound; allowed: text-to-image"),
        (
            '{"mixture": {"text-to-image": 0.5}}',
            "mixture has {'text-to-image': 0.5}; weights of flows must be integers",
        ),
        ('{"multipliers": {"globe": 0}}', "multipliers has globe; allowed: global, data, data.image"),
        ('{"multipliers": {"global": -1}}', "multipliers are {'global': -1}; they must be 0 or more"),
        ('{"multiply": "loss"}', "multiply is 'loss'; allowed: update, gradient"),
        ('{"noises": {"text": 0}}', "noises has {'text': 0}; allowed: integers"),
        ('{"new_contexts": "copied"}', "unknown setting 'new_contexts'"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.json: |mine\.json is") as error:
        read_config(file)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
