"""`versatile fetch`: a model of this project from its release, checked and kept in the cache."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import urlopen

import typer

from versatile_diffusion.choices import chosen
from versatile_diffusion.cli.io.console import note, show, show_json, working
from versatile_diffusion.cli.options import Json
from versatile_diffusion.files import write_whole_folder
from versatile_diffusion.printable import shown
from versatile_diffusion.shipped import DIGESTS, INDEX, OWN, RELEASES, digest_of, fetched_folder

MOST_BYTES = 2_000_000_000
PIECE = 1 << 20
WAIT = 60  # seconds without an answer


def fetch(
    name: Annotated[str, typer.Argument(help="Name of the model, such as emoji.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="PLACE", help="URL or file of a wheel, a folder, or a hub id; its release."),
    ] = None,
    json: Json = False,
) -> None:
    """Download a model of this project, check its SHA-256 and keep it in the cache (VERSATILE_CACHE, else the user's
    cache folder). Then every command finds it by its name."""
    chosen("model to fetch", name, OWN)
    place = source or RELEASES.get(name)
    target = fetched_folder(name)
    if (target / INDEX).is_file() and digest_of(target) == DIGESTS[name]:
        note(f"{name} is in the cache already")
    else:
        if place is None:
            raise ValueError(
                f"this version knows no release of {name}; give --from URL, FILE or HUB-ID, or "
                f"pip install 'versatile-diffusion[{name}]'"
            )
        with TemporaryDirectory() as work, working(f"fetching {name}"):
            keep(name, _folder(place, Path(work)), target)
    show_json({"model": name, "folder": str(target)}) if json else show(str(target))


def keep(name: str, folder: Path, target: Path) -> None:
    """Copies the model in a folder (or below it) to the cache.

    Raises:
        ValueError: there is no model there, or it is another one.
    """
    indexes = sorted(folder.rglob(INDEX))
    if len(indexes) != 1:
        raise ValueError(f"{len(indexes)} models are in what was fetched; it must hold one ({INDEX})")
    found = indexes[0].parent
    if (digest := digest_of(found)) != DIGESTS[name]:
        raise ValueError(
            f"what was fetched is not the {name} model of this version: its SHA-256 is {digest[:16]}..., not "
            f"{DIGESTS[name][:16]}...; nothing was kept"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole_folder(target, lambda draft: shutil.copytree(found, draft))


def _folder(place: str, work: Path) -> Path:
    """The folder of what is at a place; downloads are put into `work`."""
    path = Path(place)
    if path.is_dir():
        return path
    if urlsplit(place).scheme in ("http", "https"):
        path = _download(place, work / "model.whl")
    if path.is_file():
        return _unpack(path, work / "model")
    from versatile_diffusion.pipeline.models import fetch_model
    from versatile_diffusion.shipped import HUB_ID

    if not HUB_ID.fullmatch(place):
        raise ValueError(f"--from is {shown(place)}; it must be a URL, a file or folder that is there, or a hub id")
    return Path(fetch_model(place, {}))


def _download(url: str, target: Path) -> Path:
    try:
        answer = urlopen(url, timeout=WAIT)  # nosec B310 # http(s) alone comes here, and the hash decides
    except OSError as error:
        raise OSError(f"{url} cannot be fetched: {error}") from error
    with answer, target.open("wb") as file:
        while piece := answer.read(PIECE):
            file.write(piece)
            if file.tell() > MOST_BYTES:
                raise ValueError(f"{url} has more than {MOST_BYTES:,} bytes; that is no model of this project")
    return target


def _unpack(wheel: Path, folder: Path) -> Path:
    """The files of a wheel.

    Raises:
        ValueError: it is no wheel, too large, or would write elsewhere.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise ValueError(f"{wheel} unpacks to more than {MOST_BYTES:,} bytes")
            for entry in entries:
                name = PurePosixPath(entry.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename:
                    raise ValueError(f"{wheel} has an entry {shown(entry.filename)}, which lies elsewhere")
            archive.extractall(folder)  # nosec B202 # all names were looked at
    except zipfile.BadZipFile as error:
        raise ValueError(f"{wheel} is no wheel ({error})") from error
    return folder
