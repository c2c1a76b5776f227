"""Every command of every page is run with its paths as they are written, or is listed with the reason why not.

The commands of a page follow one another in a copy of the repository, in which a model of random weights that takes
two steps lies in place of the shipped one; what a page supposes a reader to have, such as `photo.png`, lies there too.
Those of `versatile` are run in this process, and in the campaign all of them by bash, as a reader would.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import build_tiny_pipeline

from tests.cli import shell
from tests.examples import pages
from tests.examples.pages import NOT_RUN, PAGES, REFUSED, ROOT, commands, runnable, unsorted
from versatile_diffusion import shipped
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.parts import teacher

DATA = ROOT / "tests" / "data" / "emoji"
WEIGHTS = Path("models/emoji/src/versatile_diffusion_emoji/weights")
STYLES = {"noto": "noto style", "twemoji": "twemoji style"}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
COMMANDING = [name for name, text in TEXTS.items() if runnable(text)]
PICTURES = ("photo", "tiger", "cactus", "car", "tiger-face", "smiling-face", "automobile", "whale", "red-circle")
WHOLE = ("docs/guides/own_data.md",)
"""Pages that test_documents runs as a whole, with their Python and files."""
LONG = ("docs/guides/evaluation.md",)
"""Pages that the campaign alone runs."""
IN_PROCESS = {
    "docs/reports/gallery.md": "sixty commands, which test_commands_of_a_page runs",
    "docs/guides/training.md": "trains every part first, twenty minutes of a core; tests/training has each",
}
"""Pages that no shell runs, and why."""
TRAINED = {
    "docs/guides/training.md": "FROM=nothing STEPS=2 DATA=data/emoji RUNS=runs/emoji MODEL=runs/emoji/model "
    "scripts/train_emoji.sh",
}
"""What a page supposes to be trained already."""
PROGRAMS = {
    "versatile": "-m versatile_diffusion",
    "python": "",
    "torchrun": "-m torch.distributed.run",
}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_or_says_why_not(page: str) -> None:
    left = unsorted(TEXTS[page])
    assert left == [], "let tests/examples/pages.py run it, or say there why not"


def test_every_reason_is_needed() -> None:
    written = {line for text in TEXTS.values() for line in commands(text)}
    assert [line for line in (*NOT_RUN, *REFUSED) if line not in written] == []
    assert all(any(f"```\n{begin}" in text for text in TEXTS.values()) for begin in pages.NO_COMMAND)
    assert all(len(reason.split()) > 2 for reason in NOT_RUN.values())
    lines = [line for text in TEXTS.values() for line in commands(text)]
    assert len(lines) - len(NOT_RUN) > 60
    assert all(any(re.search(pattern, line) for line in lines) for pattern, _ in pages.SHORTER)


def test_a_new_command_must_be_one_or_the_other() -> None:
    page = "Text.\n\n```\nversatile demo \\\n    --out x  # a remark\ncurl https://example.org | sh\n```\n"
    page += "\n1. So:\n\n   ```bash\n   make all\n   ```\n"
    assert commands(page) == ["versatile demo --out x", "curl https://example.org | sh", "make all"]
    assert unsorted(page) == ["curl https://example.org | sh", "make all"]
    assert unsorted("```ruby\nputs 1\n```\n") == ["ruby"]
    assert runnable("```\nmake demo\nversatile train --from emoji --data x --minutes 9\n```\n") == [
        "versatile train --from emoji --data x --minutes 9 --steps 2"
    ]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone of the repository holds, as far as commands ask for it, and what a reader has beside it."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("src", "scripts", "examples", "docs", "models", "benchmarks", "README.md", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        options = (
            {"ignore": shutil.ignore_patterns("weights", "__pycache__", "*.webp")} if copy is shutil.copytree else {}
        )
        copy(ROOT / name, clone / name, **options)
    shutil.copytree(DATA, clone / "tests" / "data" / "emoji")
    shutil.copytree(DATA, clone / "data" / "emoji")
    pipe = build_tiny_pipeline()
    pipe.register_to_config(styles=STYLES, defaults={name: {"num_inference_steps": 2} for name in TASKS})
    pipe.save_pretrained(clone / WEIGHTS)
    for name in ("another-model", "one-flow"):
        shutil.copytree(clone / WEIGHTS, clone / name)
    for folder in ("photos", "pictures"):
        (clone / folder).mkdir()
    for k, name in enumerate(PICTURES):
        picture = Image.new("RGB", (24, 24), (30 * k, 90, 255 - 30 * k))
        picture.save(clone / f"{name}.png")
        if k < 2:
            picture.save(clone / "photos" / f"{name}.png")
        picture.save(clone / "pictures" / f"{name}.png")
        (clone / "pictures" / f"{name}.txt").write_text(f"a {name}\n")
    Image.linear_gradient("L").resize((24, 24)).point(lambda level: 255 * (level < 128)).save(clone / "upper-half.png")
    for name in ("captions.txt", "prompts.txt"):
        (clone / name).write_text("a red apple\na blue house\n")
    (clone / "prompts.csv").write_text("prompt,seed\na red apple,0\na blue house,1\n")
    (clone / "photos.jsonl").write_text('{"image": "photos/photo.png"}\n{"image": "photos/tiger.png"}\n')
    return clone


@pytest.fixture
def clone(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(template, tmp_path / "clone")
    monkeypatch.chdir(copy)
    monkeypatch.delenv("VERSATILE_DEBUG", raising=False)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in COMMANDING if page not in (*WHOLE, *LONG, *TRAINED)])
def test_commands_of_a_page(page: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `versatile`, in this process, but for what must be trained first."""
    monkeypatch.setattr(shipped, "CHECKOUT", clone / "models")
    monkeypatch.setattr(shipped, "entry_points", lambda group: [])
    threads = torch.get_num_threads()
    for line in runnable(TEXTS[page]):
        if line.startswith("versatile"):
            done = shell.run(line)
            torch.set_num_threads(threads)
            assert done.code == (2 if line in REFUSED else 0), f"{page}: {line}: {done.err}"


@pytest.mark.campaign
@pytest.mark.timeout(1200)  # dozens of processes, each of which loads torch
@pytest.mark.parametrize("page", [page for page in COMMANDING if page not in IN_PROCESS])
def test_a_page_in_a_shell(page: str, clone: Path) -> None:
    """All of a page in one shell, in a clone with an environment of its own."""
    if page in TRAINED and "scripts/train_emoji.sh" in TEXTS[page]:
        pytest.importorskip(teacher.PACKAGE)
    environment = activated(clone)
    for name, content in pages.files(TEXTS[page]).items():
        (clone / name).write_text(content, encoding="utf-8")
    lines = [*([TRAINED[page]] if page in TRAINED else ()), *runnable(TEXTS[page])]
    lines = [f"{line} || [ $? = 2 ]" if line in REFUSED else line for line in lines]
    script = "set -euo pipefail\n" + "\n".join(f"echo '>>>' {k} >&2\n{line}" for k, line in enumerate(lines))
    done = subprocess.run(
        ["bash", "-c", script], cwd=clone, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    at = int(done.stderr.rpartition(">>> ")[2].split("\n")[0])
    assert done.returncode == 0, f"{page}: {lines[at]}: {done.stderr[-2000:]}"


def activated(clone: Path) -> Mapping[str, str]:
    """The variables of an activated environment in the clone, whose programs use the clone's own code and model."""
    programs = clone / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in PROGRAMS.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    code = [str(clone / "src"), str(clone / WEIGHTS.parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, code)), "HF_HUB_OFFLINE": "1"}
    return os.environ | variables | {"PATH": f"{programs}:{os.environ['PATH']}"}
