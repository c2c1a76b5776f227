"""The files for containers name what is there; they cannot be built where these tests run."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from versatile_diffusion.cli.table import command, verbs

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_what_is_copied_is_there_and_let_in() -> None:
    copied = [
        one for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for one in line.split()
    ]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == let_in
    assert [one for one in copied if not (ROOT / one).exists()] == []


def test_extras_and_options_exist() -> None:
    extras = re.findall(r"^ARG EXTRAS=(.+)$", DOCKERFILE, re.MULTILINE)[0].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras) <= project["optional-dependencies"].keys()
    words = [json.loads(line) for line in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.+\])$", DOCKERFILE, re.MULTILINE)]
    line = [word for part in words for word in part]
    assert line[:2] == ["versatile", "serve"]
    known = {option for parameter in command(verbs()["serve"]).params for option in parameter.opts}
    assert {word for word in line if word.startswith("--")} <= known


def test_compose_is_on_this_machine_alone() -> None:
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert services.keys() == {"cpu", "gpu"}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["read_only"]
