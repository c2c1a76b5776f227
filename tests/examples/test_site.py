"""The documentation site: every page is in its navigation, and every link leads somewhere; the campaign builds it."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "versatile_diffusion"
NAVIGATION = re.compile(r"^ +- .+: (\S+\.md)$", re.MULTILINE)
API = re.compile(r"^::: versatile_diffusion\.([\w.]+)$", re.MULTILINE)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("build_site")


def test_every_page_is_in_the_navigation_and_links_to_what_there_is(site: ModuleType, tmp_path: Path) -> None:
    pages = site.gather(ROOT, tmp_path)
    listed = NAVIGATION.findall((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(listed) == pages
    assert site.missing(tmp_path) == []
    (tmp_path / "index.md").write_text("[a](docs/log.md) [b](nowhere.md) ![c](none.png)\n", encoding="utf-8")
    assert site.missing(tmp_path) == ["index.md: nowhere.md", "index.md: none.png"]


def test_pages_are_adapted_outside_code(site: ModuleType) -> None:
    page = "Text [a](../README.md#x), [b](../../examples/brain_decoding.py).\n* one\n* two\n\n```\nText\n* three\n```\n"
    assert site.adapted(page) == (
        "Text [a](../index.md#x), [b](../../examples/brain_decoding.md).\n\n* one\n* two\n\n```\nText\n* three\n```\n"
    )


def test_api_pages_name_what_there_is() -> None:
    """Looked up in the source, as mkdocstrings does: nothing is imported."""
    names = [name for page in (ROOT / "docs" / "api").glob("*.md") for name in API.findall(page.read_text("utf-8"))]
    assert len(names) > 20
    assert [name for name in names if not _defined(name)] == []


def _defined(name: str) -> bool:
    """Whether a dotted name below the package is a module, exported by the package, or defined in its module."""
    path, (folder, _, last) = SOURCE / name.replace(".", "/"), name.rpartition(".")
    if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
        return True
    home = SOURCE / folder.replace(".", "/")
    file = home.with_suffix(".py") if folder and not home.is_dir() else home / "__init__.py"
    pattern = rf"^(?:class|def) {last}\b" if folder else rf'^    "{last}",$'
    return file.is_file() and bool(re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.campaign
def test_the_site_is_built_and_a_broken_link_fails(
    site: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("zensical", reason="the extra `docs` is not installed")
    for name in ("docs", "src", "models/emoji/README.md", "mkdocs.yml", *site.TURNED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    monkeypatch.setattr(site, "ROOT", tmp_path)
    site.main()
    built = (tmp_path / site.SITE / "docs" / "api" / "pipeline" / "index.html").read_text(encoding="utf-8")
    assert "text_to_image" in built
    with (tmp_path / "docs" / "log.md").open("a", encoding="utf-8") as page:
        page.write("\n[a heading that is not there](architecture.md#nothing)\n")
    with pytest.raises(SystemExit, match="the site has errors"):
        site.main()
