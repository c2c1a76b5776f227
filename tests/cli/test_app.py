"""The command as a whole: quick help, and what it says of itself and of a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.version import __version__

HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "tokenizers")
HELP = f"""
import sys
from versatile_diffusion.cli import main
code = main(sys.argv[1:])
print(code, *(name for name in {HEAVY} if name in sys.modules))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["text-to-image", "--help"], ["data", "emoji", "--help"], []])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """So it answers in a fraction of a second."""
    done = subprocess.run([sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert "Usage: versatile" in done.stdout


def test_help_names_every_command(versatile: Command) -> None:
    text = versatile("--help").out
    assert [name for name in (*TASKS, "describe", "replay", "train", "data", "demo") if name not in text] == []


def test_version(versatile: Command) -> None:
    assert versatile("--version").out.strip() == __version__


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "versatile_diffusion", "x"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0][:6]) == (2, "", "error:")


def test_describe_counts_every_parameter(versatile: Command, model: str, tiny_pipeline: object) -> None:
    facts = json.loads(versatile("describe", "--model", model, "--json").out)
    assert list(facts["tasks"]) == list(TASKS)
    counted = {title: sum(rows.values()) for title, rows in facts["parameters"].items()}
    parts = {"diffuser": tiny_pipeline.unet, "codecs and context encoders": tiny_pipeline.bank}
    assert counted == {title: sum(p.numel() for p in part.parameters()) for title, part in parts.items()}
    on_disk = sum(file.stat().st_size for file in Path(model).rglob("*") if file.is_file())
    assert sum(facts["bytes"].values()) == on_disk


def test_describe_for_people(versatile: Command, model: str) -> None:
    text = versatile("describe", "--model", model).out
    assert all(word in text for word in ("text->image", "context.text", "codec-image (LiteVAE)", "noto", "MB"))
