"""Fetching: pinned checksums, safe archives, and errors that name the remedy."""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from versatile_diffusion.recipes.emoji.data import fetch as fetching
from versatile_diffusion.recipes.emoji.data.fetch import fetch, integrity_of, read_members
from versatile_diffusion.recipes.emoji.data.sources import PACKAGES, STYLES, Package, choose_styles, package_named


def make_tarball(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link is not None:
            info = tarfile.TarInfo("package/link")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return path


@pytest.fixture
def package(tmp_path: Path) -> tuple[Package, Path]:
    tarball = make_tarball(tmp_path / "source.tgz", {"package/a.json": b"{}"})
    return Package("@some/icons", "1.0.0", "MIT", "somebody", integrity_of(tarball)), tarball


def copying(tarball: Path):
    return lambda package, folder: (folder / package.filename).write_bytes(tarball.read_bytes())


def test_a_package_is_fetched_once(package, tmp_path):
    pinned, tarball = package
    calls = []

    def pack(wanted, folder):
        calls.append(wanted.spec)
        copying(tarball)(wanted, folder)

    paths = {fetch(pinned, tmp_path / "downloads", pack) for _ in range(2)}
    assert paths == {tmp_path / "downloads" / "some-icons-1.0.0.tgz"}
    assert calls == ["@some/icons@1.0.0"]


def test_a_cut_download_is_fetched_again(package, tmp_path):
    pinned, tarball = package
    (tmp_path / pinned.filename).write_bytes(tarball.read_bytes()[:20])
    assert integrity_of(fetch(pinned, tmp_path, copying(tarball))) == pinned.integrity


def test_a_wrong_checksum_stops_and_names_both(package, tmp_path):
    pinned, tarball = package
    other = replace(pinned, integrity="sha512-AAAA")
    with pytest.raises(ValueError, match=r"has checksum sha512-.*but sha512-AAAA.* is pinned.*npm config get registry"):
        fetch(other, tmp_path / "downloads", copying(tarball))
    assert not (tmp_path / "downloads" / other.filename).exists()


def test_missing_npm_names_the_remedy(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"npm was not found on PATH.*install Node\.js"):
        fetch(package[0], tmp_path / "downloads")


def test_a_failed_download_names_the_remedy(package, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "which", lambda name: name)
    failed = subprocess.CompletedProcess([], 1, "", "npm warn old\nnpm error code ENOTFOUND")
    monkeypatch.setattr(fetching.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match=r"npm pack @some/icons@1\.0\.0 failed.*ENOTFOUND.*check the network"):
        fetch(package[0], tmp_path / "downloads")


def test_members_are_read_by_prefix_and_never_written(tmp_path):
    tarball = make_tarball(tmp_path / "a.tgz", {"package/svg/1.svg": b"one", "package/README.md": b"no"})
    assert read_members(tarball, ("svg/",)) == {"svg/1.svg": b"one"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz"]


@pytest.mark.parametrize("name", ["package/../../evil", "/etc/evil", "package/a\\..\\evil"])
def test_members_outside_the_package_are_refused(tmp_path, name):
    tarball = make_tarball(tmp_path / "a.tgz", {name: b""})
    with pytest.raises(ValueError, match="points outside its package"):
        read_members(tarball, ("",))


def test_links_are_refused(tmp_path):
    tarball = make_tarball(tmp_path / "a.tgz", {}, link="/etc/passwd")
    with pytest.raises(ValueError, match="a link or a device"):
        read_members(tarball, ("",))


def test_the_tables_agree():
    assert len(STYLES) == 14
    assert len({style.id for style in STYLES}) == 14
    assert len({phrase for style in STYLES for phrase in style.phrases}) == 3 * 14
    assert all(package_named(style.package).licence for style in STYLES)
    assert all(package.integrity.startswith("sha512-") and len(package.integrity) == 95 for package in PACKAGES)
    assert choose_styles(["twemoji", "noto"]) == tuple(s for s in STYLES if s.id in ("noto", "twemoji"))
    with pytest.raises(ValueError, match=r"unknown \['apple'\]; choose from noto"):
        choose_styles(["apple"])


def test_the_notice_names_every_package():
    notice = (Path(__file__).parents[4] / "NOTICE").read_text(encoding="utf-8")
    missing = [package.spec for package in PACKAGES if f"{package.name} {package.version}" not in notice]
    assert not missing
    assert all(package.authors in notice for package in PACKAGES)
