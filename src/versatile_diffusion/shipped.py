"""Installed models, without loading them, and folders of packages that hold weights."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache as once
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from pathlib import Path

from versatile_diffusion.choices import unknown
from versatile_diffusion.reading import read_json

MODELS_GROUP = "versatile_diffusion.models"
INDEX = "model_index.json"
SOURCE = Path(__file__).parents[1]
CHECKOUT = SOURCE.parent / "models" if SOURCE.name == "src" else None
"""Folder of models in a checkout; None for an installed package."""
OWN: Mapping[str, str] = {"emoji": "pip install ./models/emoji"}
"""Models of this project, and how to install each in a checkout. They are separate distributions."""
UNRELEASED: Mapping[str, str] = {
    "emoji-speech": "`scripts/train_speech.sh` trains it into models/emoji-speech, then `pip install ./models/emoji "
    "./models/emoji-speech`"
}
"""Models of this project without released weights, and how to get each in a checkout."""
DEFAULT = "emoji"
EXTENDS = "extends.json"
"""In a model folder with only those files that another model lacks: the other's name, and its `digest_of`."""
DIGESTS: Mapping[str, str] = {"emoji": "cded3a54fec187f6c9123bff2b4c13187d7bc6f38f2c65983b80917204dc5302"}
"""`digest_of` of each model's folder; `python scripts/model_digests.py` writes it here."""
RELEASES: Mapping[str, str] = {}
"""Address of the wheel of each model's release, used by `versatile fetch`; see docs/release.md."""
SAMPLES = "samples"
"""Folder beside the weights of a model."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
CACHE_VARIABLE = "VERSATILE_CACHE"


def cache() -> Path:
    """Return the folder of fetched models: `VERSATILE_CACHE`, else the system's cache folder."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    usual = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(usual) if usual else Path.home() / ".cache") / "versatile-diffusion"


def fetched_folder(name: str) -> Path:
    """Return the folder into which `versatile fetch` puts a model."""
    return cache() / "models" / name


def digest_of(folder: Path) -> str:
    """Return the SHA-256 of the names and hashes of all files of a model, sorted by name."""
    total = sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()


def shipped_models() -> dict[str, Path]:
    """Return the folders of installed models by name.

    A distribution provides one through the entry point group `versatile_diffusion.models`: its name, and the folder
    (or a function that returns it). In a checkout, `models/NAME/` counts, too, and so does what `versatile fetch`
    downloaded. Models whose files are missing are omitted.
    """
    indexes = sorted(CHECKOUT.glob(f"*/**/{INDEX}")) if CHECKOUT else []
    kept = {name: fetched_folder(name) for name in OWN if (fetched_folder(name) / INDEX).is_file()}
    found = kept | {index.relative_to(str(CHECKOUT)).parts[0]: index.parent for index in indexes}
    return found | {point.name: folder for point in entry_points(group=MODELS_GROUP) if (folder := _folder(point))}


def _folder(point: EntryPoint) -> Path | None:
    try:
        where = point.load()
    except (ImportError, AttributeError):
        return None
    folder = Path(where() if callable(where) else where)
    return folder if (folder / INDEX).is_file() else None


def homes_of(name: str | PathLike[str]) -> list[Path]:
    """Return what lies beside the weights of a model, an installed one or a folder, such as its samples: the folder
    that holds the weights, then that of the model that it extends."""
    folder = shipped_models().get(str(name), Path(name))
    below = read_json(file) if (file := folder / EXTENDS).is_file() else {}
    return [folder.parent, *(homes_of(str(below["model"])) if "model" in below else ())]


def samples_of(name: str | PathLike[str]) -> list[Path]:
    """Return the sample files of a model, an installed one or a folder: its own, then those of the model that it
    extends; none where there are none."""
    return [file for home in homes_of(name) for file in sorted((home / SAMPLES).glob("*"))]


def damaged_models() -> list[str]:
    """Return the names of installed models whose files are missing."""
    return sorted(point.name for point in entry_points(group=MODELS_GROUP) if _folder(point) is None)


def not_installed(name: str) -> str:
    """Return the message for a model of this project that is not installed."""
    return (
        f"the {name} model is not installed: get it by `versatile fetch {name}`, pip install "
        f"'versatile-diffusion[{name}]' or, in a clone, `{OWN[name]}`; other models work by folder or hub id"
    )


def styles_of(name: str) -> list[str]:
    """Return the styles of a shipped model or a folder; empty if unknown."""
    index = shipped_models().get(name, Path(name)) / INDEX
    try:
        return list(json.loads(index.read_text(encoding="utf-8"))["styles"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def find_model(name: str | PathLike[str]) -> str:
    """The folder of a shipped model; a folder, a checkpoint or a hub id (`owner/name`, or `owner/name@revision`) as
    given. Of a folder that extends another model, one with the files of both.

    Raises:
        ValueError: it is none of these, or extends a model that is not installed.
    """
    shipped = shipped_models()
    if str(name) in shipped:
        return whole(shipped[str(name)])
    if str(name) in OWN and not is_ours(name):
        raise ValueError(not_installed(str(name)))
    if str(name) in UNRELEASED and not is_ours(name):
        way = UNRELEASED[str(name)]
        raise ValueError(f"the {name} model is not installed, and no weights of it are released; in a clone, {way}")
    if Path(name).exists():
        return whole(name)
    if HUB_ID.fullmatch(str(name)):
        return str(name)
    others = "; else a folder, a checkpoint, or a hub id as owner/name or owner/name@revision"
    raise ValueError(unknown("model", str(name), sorted(shipped), others))


def is_ours(path: str | PathLike[str]) -> bool:
    """Whether a path is a folder in our layout."""
    return Path(path, INDEX).is_file() and Path(path, "bank").is_dir()


def package_folder(package: str, use: str) -> Path:
    """Return the folder of an installed package of weights.

    Args:
        package: its import name.
        use: what needs it, and the name under which it is installed, for the message.

    Raises:
        ValueError: it is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"{use}, which is not installed: pip install 'versatile-diffusion[train]'")
    return Path(found.origin).parent


def whole(name: str | PathLike[str]) -> str:
    """Return a path as given; if it is a folder that extends another model, a temporary folder with the files of both.

    Raises:
        ValueError: the other model is not installed, or not the one that is extended.
    """
    file = Path(name, EXTENDS)
    if not file.is_file():
        return str(name)
    told = read_json(file)
    other, digest = str(told.get("model")), str(told.get("digest"))
    return str(_overlay(Path(name).absolute(), Path(find_model(other)).absolute(), digest))


@once
def _overlay(folder: Path, below: Path, digest: str) -> Path:
    """Link the files of `folder` over those of `below`, in a folder that lasts as long as this process."""
    if digest_of(below) != digest:
        raise ValueError(f"{folder} extends another release of the model in {below}; install those of one version")
    place, owner = Path(tempfile.mkdtemp(prefix="versatile-model-")), os.getpid()
    atexit.register(lambda: shutil.rmtree(place, ignore_errors=True) if os.getpid() == owner else None)
    for source in (below, folder):
        for file in (path for path in source.rglob("*") if path.is_file()):
            target = place / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                target.symlink_to(file)
            except OSError:  # Windows, without the right to
                shutil.copyfile(file, target)
    return place
