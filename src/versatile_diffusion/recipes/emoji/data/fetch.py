"""Fetching of packages with the npm client, and reading without unpacking.

A tarball is verified against the pinned checksum before it is read, and its members stay in memory, so that a package
cannot choose where files are written.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from versatile_diffusion.printable import shown
from versatile_diffusion.recipes.emoji.data.sources import Package

TIMEOUT_SECONDS = 600
UNREACHED = re.compile(
    r"\b(E4\d\d|E5\d\d|ENOTFOUND|EAI_AGAIN|ECONN\w+|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|\w*CERT\w*)\b"
)
"""npm's error codes for an unreachable or misbehaving registry."""


def integrity_of(path: Path) -> str:
    """Return the checksum of a file in npm's format."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    return "sha512-" + base64.b64encode(digest).decode("ascii")


def find_npm(packages: Sequence[Package], folder: Path) -> str:
    """Return the npm client, which is needed if a package is not in `folder`.

    Raises:
        ValueError: npm is missing.
    """
    npm, missing = shutil.which("npm"), [package for package in packages if not (folder / package.filename).is_file()]
    if npm is None and missing:
        first = missing[0]
        raise ValueError(
            f"npm was not found on PATH, and {first.spec} is not in {folder}; install Node.js 18 or newer (npm comes "
            f"with it), or put the tarball {first.filename} of that package into {folder} and run again"
        )
    return npm or ""


def _npm_pack(package: Package, folder: Path) -> None:
    npm = find_npm([package], folder)
    # npm runs in the folder, away from project settings of the caller; so the folder must be absolute.
    command = [npm, "pack", package.spec, "--ignore-scripts", "--pack-destination", str(folder.resolve())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, cwd=folder, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"npm pack {package.spec} gave no answer in {TIMEOUT_SECONDS} s; check the network and the registry "
            "(npm config get registry) and run again; finished downloads are kept"
        ) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        words = " ".join(lines)[:300]
        network = "check the network and the registry (npm config get registry)"
        remedy = network if UNREACHED.search(words) else "this is not a network error; fix it"
        raise ValueError(
            f"npm pack {package.spec} failed with status {done.returncode} ({words}); {remedy} and run again; "
            "finished downloads are kept"
        )


def fetch(package: Package, folder: Path, pack: Callable[[Package, Path], None] = _npm_pack) -> Path:
    """Return the verified tarball of a package in `folder`, fetching it if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package.filename
    if path.is_file() and integrity_of(path) == package.integrity:
        return path
    path.unlink(missing_ok=True)  # truncated, or from another build
    pack(package, folder)
    if not path.is_file():
        raise ValueError(f"npm pack {package.spec} did not write {package.filename}; update npm to version 8 or newer")
    found = integrity_of(path)
    if found != package.integrity:
        path.unlink()
        raise ValueError(
            f"{package.spec}: the downloaded {package.filename} has checksum {found}, but {package.integrity} is "
            "pinned; it was deleted. Check that npm uses the public registry (npm config get registry) and run again"
        )
    return path


def _inside(name: str) -> str:
    """Return the path of a member below the package's top folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ValueError(
            f"archive member {shown(name)} points outside its package; only relative paths without '..' are allowed"
        )
    return "/".join(path.parts[1:])


def read_members(tarball: Path, prefixes: tuple[str, ...]) -> dict[str, bytes]:
    """Return the regular files of a tarball whose path (below its top folder) starts with one of `prefixes`."""
    members: dict[str, bytes] = {}
    with tarfile.open(tarball, "r:gz") as archive:
        for info in archive:
            if not (info.isfile() or info.isdir()):
                raise ValueError(
                    f"archive member {shown(info.name)} of {tarball.name} is a link or a device; only files are allowed"
                )
            path = _inside(info.name)
            if info.isfile() and path.startswith(prefixes):
                file = archive.extractfile(info)
                assert file is not None
                members[path] = file.read()
    return members
