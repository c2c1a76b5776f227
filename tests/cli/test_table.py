"""The verbs: from the table of tasks, consistent, completed by the shell, and quick."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import get_args, get_type_hints

import pytest
import typer
from typer.models import OptionInfo

from tests.cli import shell
from versatile_diffusion.applications.variation import METHODS
from versatile_diffusion.cli.app import app
from versatile_diffusion.cli.options import CHOICES
from versatile_diffusion.cli.table import every_verb, verbs
from versatile_diffusion.cli.verbs.encode import KINDS
from versatile_diffusion.controls import PARTS
from versatile_diffusion.data.encoder import LONG
from versatile_diffusion.evaluation.protocol import PROTOCOLS
from versatile_diffusion.flow import Flow
from versatile_diffusion.recipes.settings import SETTINGS
from versatile_diffusion.sampling.rules import MIXINGS
from versatile_diffusion.sampling.schedulers import SCHEDULERS
from versatile_diffusion.tasks import NULLS, TASKS, Task
from versatile_diffusion.training.engine.config import PARALLEL

CALLED = {words: verb for words, verb in every_verb() if verb.load}


def options_of(words: str) -> dict[str, object]:
    """Options of a verb, and the type of their values."""
    load = CALLED[words].load
    assert load is not None
    hints, found = get_type_hints(load(), include_extras=True), {}
    for name, hint in hints.items():
        if isinstance(option := next(iter(getattr(hint, "__metadata__", ())), None), OptionInfo):
            names = [name for name in option.param_decls or () if name.startswith("--")]
            kinds = {kind for kind in get_args(hint.__origin__) or (hint.__origin__,) if kind is not type(None)}
            found[names[0] if names else f"--{name.replace('_', '-')}"] = kinds
    return found


def test_a_new_task_is_a_verb_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    new = Task("picture-with-words", Flow("text", ("text", "image")), help="Words for a picture, led by words.")
    monkeypatch.setitem(TASKS, new.name, new)
    assert new.help in shell.run("versatile --help").text
    text = shell.run(f"versatile {new.name} --help").text
    assert " ".join(text.split()).startswith(f"Usage: versatile {new.name} [OPTIONS] {{TEXT}} {{FILE}}...")
    assert "--temperature" in text, "it makes texts"
    assert "--height" not in text
    assert f"versatile {new.name} \"a red apple\" apple.png --json | jq '.texts'" in text


@pytest.mark.parametrize("name", TASKS)
def test_a_flow_with_audio_has_the_model_with_audio_by_default(name: str) -> None:
    text = " ".join(shell.run(f"versatile {name} --help").text.split())
    assert f"[default: {'emoji-speech' if 'audio' in name else 'emoji'}]" in text


def test_a_new_task_runs(monkeypatch: pytest.MonkeyPatch, model: str, apple: object) -> None:
    new = Task("picture-with-words", Flow("text", ("text", "image")))
    monkeypatch.setitem(TASKS, new.name, new)
    done = shell.run(f"versatile {new.name} 'a red apple' {apple} --model {model} --steps 1 --json")
    assert (done.code, done.documents()[0]["task"]) == (0, new.name), done.err


@pytest.mark.parametrize("words", CALLED)
def test_the_same_thing_is_called_the_same(words: str) -> None:
    """An option of one name takes one kind of value in every verb; every verb can speak JSON."""
    shared = options_of("versatile text-to-image")
    own = options_of(words)
    assert "--json" in own
    assert {name: own[name] for name in own.keys() & shared.keys()} == {
        name: shared[name] for name in own.keys() & shared.keys()
    }


def test_names_for_completion_are_those_of_the_tables() -> None:
    tables = {
        "scheduler": SCHEDULERS,
        "mixing": MIXINGS,
        "null": NULLS,
        "match_colours": METHODS,
        "as": KINDS,
        "objective": SETTINGS,
        "parallel": PARALLEL,
        "protocol": PROTOCOLS,
        "long": LONG,
        "repaint": PARTS,
    }
    assert {name: set(CHOICES[name]) for name in tables} == {name: set(table) for name, table in tables.items()}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("versatile text-", ["text-to-image", "text-variation", "text-to-audio"]),
        ("versatile data ", ["emoji", "speech", "select", "fetch", "encode"]),
        ("versatile text-to-image a --guidance-s", ["--guidance-scale"]),
        ("versatile text-to-image a --scheduler d", ["ddim", "dpm++"]),
        ("versatile dual-guided a b --mixing la", ["layer"]),
        ("versatile describe --model em", ["emoji"]),
        ("versatile sweep image-", ["image-variation", "image-to-text", "image-to-audio"]),
        ("versatile train image-c", ["image-codec", "image-context"]),
        ("versatile train --from e", ["emoji"]),
        ("versatile text-to-image a --repaint to", ["top"]),
        ("versatile text-to-image a --style openmoji-b", ["openmoji-black"]),
    ],
)
def test_completion(line: str, offered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As bash asks for it."""
    asked = {"_VERSATILE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    out: list[str] = []
    monkeypatch.setattr(typer.completion._click, "echo", lambda text, **_: out.append(text))
    with pytest.raises(SystemExit):  # typer ends the process
        shell.run("versatile")
    assert "".join(out).split() == offered


def test_completion_loads_nothing_heavy() -> None:
    line = "versatile text-to-image a --style openm"
    asked = {"_VERSATILE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    call = [sys.executable, "-X", "importtime", "-m", "versatile_diffusion"]
    done = subprocess.run(call, capture_output=True, text=True, env=os.environ | asked)
    assert done.stdout.split() == ["openmoji", "openmoji-black"]
    loaded = {row.rpartition("|")[2].strip().partition(".")[0] for row in done.stderr.splitlines()}
    assert "versatile_diffusion" in loaded
    assert loaded & {"torch", "diffusers", "transformers", "numpy", "PIL"} == set()


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_scripts(name: str) -> None:
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    call = [sys.executable, "-m", "versatile_diffusion", "--show-completion", name]
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert (done.returncode, "_VERSATILE_COMPLETE" in done.stdout) == (0, True), done.stderr


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    """The best of three, since other work may share the processor; a slow one is known by what Python alone takes."""
    best = min(seconds_of("-m", "versatile_diffusion", "--help") for _ in range(3))
    alone = min(seconds_of("-c", "import argparse, json, typing") for _ in range(3))
    assert best < max(0.5, 10 * alone), f"{best:.2f} s"


def seconds_of(*arguments: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_every_verb_is_listed_once() -> None:
    assert list(app().commands) == list(verbs())
