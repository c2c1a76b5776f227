"""The commands of every page: read out of README and the documents, and sorted into those that are run and those that
are not, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in sorted(
        [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").glob("*/README.md")],
        key=lambda path: path.as_posix(),
    )
}
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELLS = ("", "sh", "bash", "shell", "console", "text")
"""What a block of commands may be called; `python` blocks are run by test_documents, `toml` and `json` are files."""
PROGRAMS = ("versatile", "python", "torchrun", "scripts/", ".", "STEPS=")
"""What the commands that are run begin with."""

NO_COMMAND = {
    "Usage: versatile": "the help of a verb: test_docs.py compares it, test_examples.py runs its examples",
    "                       correlation": "what the example prints",
}
"""How blocks begin that hold no commands, and what they are."""

INSTALLS = "installs packages from an index; .ci/run does it in a clean clone"
SERVES = "serves until it is stopped, for a browser; tests/ui does that, and tests/cli/test_examples.py starts it"
DOCKER = "needs Docker; tests/examples/test_container.py reads the files"
SERVED = "asks a service; tests/serving/test_page.py starts one and runs it as it stands"
TWO_PROCESSES = "stands for any training; tests/training/engine/test_distributed.py has two processes"
LAION = "needs LAION's metadata; tests/cli/test_examples.py runs it on made-up rows"
SHARDED = "needs shards and a model of the reader's; tests/cli/test_scale.py runs the like on small ones"
CLUSTER = "needs a cluster; tests/recipes/test_cluster.py and scripts/small_road.py start one here"
SPOKEN = "trains for hours on spoken words; tests/recipes/speech builds a small set and trains each part on it"
CURL = re.findall(r"^curl .*$", PAGES["docs/guides/serving.md"].read_text(encoding="utf-8"), re.MULTILINE)
NOT_RUN: Mapping[str, str] = {
    "make demo": INSTALLS,
    "make setup": INSTALLS,
    "make test": "these are the tests; .ci/run runs it in a clean clone",
    "make docs": "installs zensical; .ci/run builds the site in a clean clone",
    "make lint": "it judges the code and not the page; .ci/run's checks do it",
    'pip install "versatile-diffusion[ui]"': INSTALLS,
    'pip install "versatile-diffusion[eval]"': INSTALLS,
    ".venv/bin/pre-commit install": "writes into the hooks of the clone that one works in",
    "versatile ui": SERVES,
    "versatile ui --host 0.0.0.0 --auth-file logins.txt": SERVES,
    "versatile ui --also my-model --loras adapters": SERVES,
    "FORWARDED_ALLOW_IPS=127.0.0.1 versatile ui --auth-file logins.txt --allow-host studio.example.org": SERVES,
    'pip install "versatile-diffusion[serve]"': INSTALLS,
    'pip install "versatile-diffusion[serve,cluster]"': INSTALLS,
    "versatile serve --ray local --replicas 2": "starts a cluster; tests/serving/test_cluster.py has one",
    "versatile serve --ray local --name base --lora pixel=runs/pixel/lora --lora ink=runs/ink/lora": "starts a "
    "cluster; tests/serving/test_models.py has one with two adapters",
    'ln -s "$PWD/integrations/comfyui" ComfyUI/custom_nodes/versatile-diffusion': "needs ComfyUI; test_comfyui.py has "
    "its interface",
    "docker compose up": DOCKER,
    "docker compose --profile gpu up": DOCKER,
    "versatile serve": "serves until it is stopped; tests/serving/test_server.py starts it",
    **{line: SERVED for line in CURL},
    "versatile data speech --out data/speech": SPOKEN,
    **{
        f"versatile train {what} --data data/speech --out runs/speech/{run}": SPOKEN
        for what, run in (
            ("audio-codec --settings speech", "audio-codec"),
            ("audio-context --settings speech", "audio-context"),
            ("speech-judge --settings speech", "speech-judge"),
            ("diffuser --settings speech", "diffuser-speech"),
            ("diffuser --settings speech", "diffuser-speech --by-clock 240"),
            ("diffuser --settings speech-words", "diffuser-words"),
            ("diffuser --settings speech-means", "diffuser-means"),
            ("diffuser --settings speech-joint", "diffuser-speech-joint --by-clock 45"),
        )
    },
    "python -m versatile_diffusion.recipes.speech.figures --model runs/speech/diffuser-speech-joint/export "
    "--data data/speech --judge runs/speech/speech-judge/export --image-judge tests/data/judge "
    "--out runs/speech/figures": "needs what those commands train; tests/recipes/speech has figures of a small model",
    "python -m versatile_diffusion.recipes.speech.figures --model runs/speech/diffuser-speech/export "
    "--data data/speech --judge tests/data/speech-judge --image-judge tests/data/judge --out runs/figures": "needs the "
    "speech set; tests/recipes/speech has figures of a small model",
    "versatile data select laion/ --out selected/": LAION,
    "versatile data fetch selected/ --out shards/": LAION,
    "versatile data encode shards/ --out encoded/ --model MODEL --side 256 --ray ADDRESS": CLUSTER,
    "versatile train --from MODEL --stream shards/ --out runs/mine": SHARDED,
    "versatile train --from MODEL --stream 's3://bucket/laion/{00000..00999}.tar@3' --stream shards/@1 "
    "--out runs/mixed": SHARDED,
    "versatile train --from MODEL --stream encoded/ --out runs/encoded": SHARDED,
    "versatile train --from MODEL --stream 's3://bucket/laion/*.tar' --out /shared/run --ray ADDRESS --nodes 8 "
    "--nproc 8 --parallel hsdp": CLUSTER,
    "versatile train diffuser ... --ray ADDRESS --nodes 2 --nproc 8": CLUSTER,
    "versatile train --from MODEL --settings basic --warm-start sd-v1-4.ckpt --stream shards/ --out runs/basic-256 "
    "--batch 32": SHARDED,
    "versatile train --from runs/basic-256/export --settings basic --phase 2 --stream shards/ --out runs/basic "
    "--batch 32": SHARDED,
    "versatile train --from runs/basic/export --settings dual-context --stream shards/ --out runs/dual-context-256 "
    "--batch 8": SHARDED,
    "python scripts/small_road.py --out build/road": "takes minutes; tests/examples/test_small_road.py runs it shorter",
    "uvx img2dataset --url_list selected --input_format parquet --url_col URL --caption_col TEXT --output_format "
    "webdataset --output_folder shards --resize_mode keep_ratio --image_size 512": "installs from an index",
    "versatile --install-completion": "writes into the start-up file of whoever runs the tests",
    "versatile data emoji --out data/emoji": "fetches packages; tests/cli/test_data.py runs it on small local ones",
    "versatile convert SOURCE OUT --to ours|official|diffusers [--dtype float16] [--format pth] [--layout basic-2022] "
    "[--json]": "shows what the command takes; tests/interop/test_convert.py converts every layout",
    "versatile evaluate --model stable-diffusion-v1-4 --data data/emoji --judge runs/emoji/judge/export "
    "--encoders emoji --out runs/sd": "fetches published weights; test_baselines.py measures tiny ones in their place",
    "python -m versatile_diffusion.recipes.emoji.prompt_sheet --model emoji --judge runs/emoji/judge/export "
    "--out runs/sheet": "the tiny model spells letter by letter; test_prompt_sheet.py has prompts short enough",
    "versatile evaluate --compare runs/sd/results.json --compare runs/ours/results.json": "needs the published weights",
    "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint first-node:29500 "
    "-m versatile_diffusion.train diffuser ...": "needs two machines; test_distributed.py starts it on one",
    "versatile train diffuser ... --nproc 4": TWO_PROCESSES,
    "torchrun --nproc-per-node 4 -m versatile_diffusion.train diffuser ...": TWO_PROCESSES,
}
"""Commands that no test runs as they stand, and why."""

REFUSED = {'versatile blend --text "a cat@0" --seed 0': "the gallery shows what is refused"}
"""Commands that are run, and must end with exit code 2."""

SHORTER = (
    (r"^(versatile train (?!--export).*?)(?: --steps \d+)?$", r"\1 --steps 2"),
    (r"^(versatile evaluate (?!--compare).*)$", r"\1 --count 2 --steps 1 --split pair-test"),
    (r"--steps 50\b", "--steps 2"),
    (r"--against OTHER --against ANOTHER", "--against another-model --against one-flow"),
    (r"^(python examples/brain_decoding.py .*)$", r"\1 --steps 1"),
)
"""What makes a command quick where the tiny model does not, and what stands for names that a reader fills in."""


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each fenced block of a page, without its indentation."""
    for indent, kind, body in BLOCK.findall(text):
        yield kind, "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))


def commands(text: str) -> list[str]:
    """The commands of a page in their order: comments dropped, continued lines joined."""
    found = []
    for kind, body in blocks(text):
        if kind in SHELLS and not body.startswith(tuple(NO_COMMAND)):
            lines = re.sub(r"\s*\\\n\s*", " ", body).splitlines()
            found += [line for line in (re.sub(r"(^|\s+)# .*$", "", one).strip() for one in lines) if line]
    return found


def files(text: str) -> dict[str, str]:
    """The files that a page has its reader write: blocks after a line that only names them."""
    return dict(re.findall(r"^(?:.*\s)?`([\w./-]+)`:\n\n```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def unsorted(text: str) -> list[str]:
    """Commands of a page that are neither run nor listed with a reason, and blocks of a kind that nobody knows."""
    strange = [kind for kind, _ in blocks(text) if kind not in (*SHELLS, "python", "toml", "json")]
    known = [line for line in commands(text) if line in NOT_RUN or line.split()[0].startswith(PROGRAMS)]
    return strange + [line for line in commands(text) if line not in known]


def runnable(text: str) -> list[str]:
    """The commands of a page that are run, made short."""
    lines = [line for line in commands(text) if line not in NOT_RUN]
    for pattern, shorter in SHORTER:
        lines = [re.sub(pattern, shorter, line) for line in lines]
    return lines
