"""The command as a whole: quick help, and what it says of itself and of a model."""

from __future__ import annotations

import json
import shutil
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


def test_describe_loads_nothing_heavy(model: Path) -> None:
    told = ["describe", "--model", str(model), "--json"]
    done = subprocess.run([sys.executable, "-c", HELP, *told], capture_output=True, text=True, check=True)
    facts, _, end = done.stdout.rpartition("}\n")
    assert end.split() == ["0"]
    assert json.loads(facts + "}")["streams"] == {"data": ["image", "text"], "context": ["image", "text"]}


REFUSED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(f"{name} is refused")
sys.meta_path.insert(0, Refuse())
from versatile_diffusion.cli import main
from versatile_diffusion.cli.table import every_verb
paths = [path.split()[1:] for path, _ in every_verb()]
print(len(paths), *(" ".join(path) for path in paths if main([*path, "--help"])), file=sys.stderr)
"""


def test_every_help_does_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=True)
    number, *failed = done.stderr.split()
    assert failed == []
    assert int(number) >= len(TASKS) + 15


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
    assert list(facts["tasks"]) == [name for name in TASKS if "audio" not in name]
    counted = {title: sum(rows.values()) for title, rows in facts["parameters"].items()}
    parts = {"diffuser": tiny_pipeline.unet, "codecs and context encoders": tiny_pipeline.bank}
    assert counted == {title: sum(p.numel() for p in part.parameters()) for title, part in parts.items()}
    on_disk = sum(file.stat().st_size for file in Path(model).rglob("*") if file.is_file())
    assert sum(facts["bytes"].values()) == on_disk


@pytest.fixture
def knowing(model: str, tmp_path: Path) -> Path:
    """The model, with a list of what it was trained on."""
    folder = Path(shutil.copytree(model, tmp_path / "knowing"))
    index = json.loads((folder / "model_index.json").read_text())
    index["vocabulary"] = {"red apple": ["fruit"], "dog face": ["puppy", "pet"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_describe_lists_what_a_model_was_trained_on(versatile: Command, knowing: Path, model: str) -> None:
    told = versatile("describe", "--vocabulary", "--model", knowing)
    assert (told.code, told.out.splitlines()) == (0, ["red apple: fruit", "dog face: puppy, pet"])
    assert json.loads(versatile("describe", "--vocabulary", "--json", "--model", knowing).out) == {
        "red apple": ["fruit"],
        "dog face": ["puppy", "pet"],
    }
    other = versatile("describe", "--vocabulary", "--model", model)
    assert (other.code, "has no vocabulary" in other.err) == (2, True)


def test_a_prompt_that_names_nothing_known_is_told_so(versatile: Command, knowing: Path, model: str) -> None:
    told = "names none of the 2 concepts knowing was trained on"
    few = ("--steps", 1, "--seed", 1, "--count", 1)
    for words, known in (("a red xylophone", False), ("two puppies", True)):
        done = versatile("text-to-image", words, "--model", knowing, *few)
        assert (done.code, f"'{words}' {told}" in done.err.replace("\n", " ")) == (0, not known)
    assert (
        "xylophone' names none"
        in versatile("blend", "--text", "a xylophone", "--text", "a puppy", "--model", knowing, *few).err
    )
    assert told not in versatile("text-to-image", "a xylophone", "--model", model, *few).err
    empty = versatile("text-to-image", " ", "--model", knowing, *few).err
    assert "the text is empty" in empty
    assert told not in empty.replace("\n", " ")


def test_describe_for_people(versatile: Command, model: str) -> None:
    text = versatile("describe", "--model", model).out
    assert all(word in text for word in ("text->image", "context.text", "codec-image (LiteVAE)", "noto", "MB"))
