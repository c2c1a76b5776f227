"""Small packages in the form of the public ones, as tarballs and in a registry on this machine."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest
from emoji_source import svg

from versatile_diffusion.recipes.emoji.data import sources
from versatile_diffusion.recipes.emoji.data.fetch import integrity_of
from versatile_diffusion.recipes.emoji.data.sources import Package

STYLES = ("noto", "openmoji", "openmoji-black")
POINTS = tuple(f"{0x1F400 + k:X}" for k in range(20))


def plain(value: Any) -> bytes:
    return json.dumps(value).encode()


def contents() -> Mapping[str, dict[str, bytes]]:
    """By package, its files; 20 animals in three styles."""
    rows = [
        {
            "hexcode": point,
            "label": f"animal {k}",
            "tags": [f"word{k}", "animal"],
            "group": 3,
            "subgroup": 0,
            "order": k,
        }
        for k, point in enumerate(POINTS)
    ]
    drawn = {
        f"{folder}/svg/{point}.svg": svg(k, place)
        for place, folder in enumerate(("color", "black"))
        for k, point in enumerate(POINTS)
    }
    icons = {f"animal-{k}": {"body": svg(k, 5).decode()} for k in range(len(POINTS))}
    return {
        "emojibase-data": {
            "en/data.json": plain(rows),
            "en/messages.json": plain({"subgroups": [{"key": "animal-mammal", "message": "mammals"}]}),
            "en/shortcodes/emojibase.json": plain({}),
            "meta/unicode-names.json": plain({}),
            "meta/groups.json": plain({"groups": {"3": "animals-nature"}, "subgroups": {"0": "animal-mammal"}}),
        },
        "emojilib": {"dist/emoji-en-US.json": plain({})},
        "unicode-emoji-json": {"data-by-emoji.json": plain({})},
        "openmoji": {"data/openmoji.json": plain([]), **drawn},
        "@iconify-json/noto": {
            "icons.json": plain({"width": 32, "height": 32, "icons": icons}),
            "chars.json": plain({point.lower(): f"animal-{k}" for k, point in enumerate(POINTS)}),
        },
    }  # fmt: skip


def write_packages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Package, ...]:
    """The tarballs, in `folder`; from here on the tables of the sources name these, by their checksums."""
    folder.mkdir(parents=True)
    packages = []
    for name, files in contents().items():
        package = sources.package_named(name)
        told = plain({"name": package.name, "version": package.version})
        with tarfile.open(folder / package.filename, "w:gz") as archive:
            for path, data in {"package.json": told, **files}.items():
                info = tarfile.TarInfo(f"package/{path}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        packages.append(replace(package, integrity=integrity_of(folder / package.filename)))
    monkeypatch.setattr(sources, "PACKAGES", tuple(packages))
    monkeypatch.setattr(sources, "STYLES", sources.choose_styles(STYLES))
    return tuple(packages)


@contextmanager
def registry(folder: Path, packages: tuple[Package, ...]) -> Iterator[str]:
    """The address of a registry that has these packages."""
    by_name = {package.name: package for package in packages}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = unquote(self.path).lstrip("/")
            if name in by_name:
                self.answer(plain(packument(by_name[name], address)), "application/json")
            elif (folder / name).is_file():
                self.answer((folder / name).read_bytes(), "application/octet-stream")
            else:
                self.send_error(404)

        def answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def packument(package: Package, address: str) -> dict[str, Any]:
    """What a registry says of a package."""
    dist = {"tarball": f"{address}/{package.filename}", "integrity": package.integrity}
    version = {"name": package.name, "version": package.version, "dist": dist}
    return {"name": package.name, "dist-tags": {"latest": package.version}, "versions": {package.version: version}}
