"""Fetching the packages with the npm client, and reading them without unpacking.

A tarball is verified against the pinned checksum before a byte of it is read, and its members stay in memory: nothing
of what a package holds can choose where it is written.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from versatile_diffusion.data.emoji.sources import Package

TIMEOUT_SECONDS = 600


def integrity_of(path: Path) -> str:
    """The checksum of a file, as npm writes it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    return "sha512-" + base64.b64encode(digest).decode("ascii")


def _npm_pack(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"npm was not found on PATH, and {package.spec} is not in {folder}; install Node.js 18 or newer (npm comes "
            f"with it), or put the tarball {package.filename} of that package into {folder} and start again"
        )
    command = [npm, "pack", package.spec, "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, cwd=folder, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"npm pack {package.spec} gave no answer in {TIMEOUT_SECONDS} s; check the network and the registry "
            "(npm config get registry) and start again: finished downloads are kept"
        ) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise ValueError(
            f"npm pack {package.spec} failed with status {done.returncode} ({' '.join(lines)[:300]}); check the "
            "network and the registry (npm config get registry) and start again: finished downloads are kept"
        )


def fetch(package: Package, folder: Path, pack: Callable[[Package, Path], None] = _npm_pack) -> Path:
    """The verified tarball of a package in `folder`, fetched unless it already lies there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package.filename
    if path.is_file() and integrity_of(path) == package.integrity:
        return path
    path.unlink(missing_ok=True)  # cut short by an interruption, or of another build
    pack(package, folder)
    if not path.is_file():
        raise ValueError(f"npm pack {package.spec} did not write {package.filename}; update npm to version 8 or newer")
    found = integrity_of(path)
    if found != package.integrity:
        path.unlink()
        raise ValueError(
            f"{package.spec}: the downloaded {package.filename} has checksum {found}, pinned is {package.integrity}; "
            "it was deleted. Check that npm uses the public registry (npm config get registry) and start again"
        )
    return path


def _inside(name: str) -> str:
    """The path of a member below the package's top folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ValueError(f"archive member {name!r} points outside its package; allowed are relative paths without '..'")
    return "/".join(path.parts[1:])


def read_members(tarball: Path, prefixes: tuple[str, ...]) -> dict[str, bytes]:
    """The regular files of a tarball whose path (below its top folder) starts with one of `prefixes`."""
    members: dict[str, bytes] = {}
    with tarfile.open(tarball, "r:gz") as archive:
        for info in archive:
            if not (info.isfile() or info.isdir()):
                raise ValueError(
                    f"archive member {info.name!r} of {tarball.name} is a link or a device; allowed are files"
                )
            path = _inside(info.name)
            if info.isfile() and path.startswith(prefixes):
                file = archive.extractfile(info)
                assert file is not None
                members[path] = file.read()
    return members
