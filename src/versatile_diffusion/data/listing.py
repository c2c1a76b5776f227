"""List the files of a folder: one walk for all commands. It ignores files of operating systems and reports what else it
skips."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.printable import shown

IMAGES = frozenset(MODALITIES["image"].suffixes)
TEXTS = (".txt", ".text", ".caption")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PACKED = frozenset([".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst", ".tgz", ".tar"])
"""Extensions of archives, including unsupported ones."""

SYSTEM_FILES = frozenset(
    {".ds_store", ".localized", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", ".gitattributes", ".gitignore"}
)
SYSTEM_FOLDERS = frozenset(
    "__macosx .ipynb_checkpoints __pycache__ @eadir #recycle #snapshot $recycle.bin .trashes .trash "  # noqa: SIM905
    ".spotlight-v100 .fseventsd .appledouble .temporaryitems .documentrevisions-v100 .@__thumb .thumbnails "
    ".git .cache lost+found".split()
) | {"system volume information"}
"""Files and folders that macOS, Windows, Jupyter, network storage, git and hub downloads create, in lower case."""

HIDDEN = "hidden"
AGAIN = "folders already visited"
CLOSED = "folders that cannot be opened"
NO_FILE = "broken links and special files"
MISSING = "missing"
MOST_NAMES = 3
MOST_EXPANDED = 1_000_000
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
LeftOut = Mapping[str, Sequence[str]]
"""Names of skipped files and folders, by reason."""


@dataclass(frozen=True)
class Listing:
    """The files of a folder and its subfolders.

    Args:
        folder: as given.
        files: sorted by path.
        left_out: what the walk skipped, except system files.
    """

    folder: Path
    files: tuple[Path, ...]
    left_out: LeftOut = field(default_factory=dict)

    def of(self, endings: Iterable[str]) -> list[Path]:
        """The files with one of these extensions (lower case, with one dot)."""
        wanted = frozenset(endings)
        return [file for file in self.files if file.suffix.lower() in wanted]

    def name(self, file: Path) -> str:
        """A file's path relative to the folder, in printable form."""
        return printable(file.relative_to(self.folder).as_posix())


def list_folder(folder: Path) -> Listing:
    """List all files in a folder and below. Links to folders are followed once each, except to parents of it."""
    files: list[Path] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    seen = {_identity(above) for above in folder.resolve().parents}
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        here = folders.popleft() if folders else links.popleft()
        name = printable(here.relative_to(folder).as_posix())
        try:
            if _identity(here) in seen:
                left_out[AGAIN].append(name)
                continue
            seen.add(_identity(here))
            with os.scandir(here) as opened:
                entries = list(opened)
        except OSError:
            left_out[CLOSED].append(name)
            continue
        for entry in entries:
            path = here / entry.name
            if is_system(entry.name):
                continue
            if entry.name.startswith("."):
                left_out[HIDDEN].append(printable(path.relative_to(folder).as_posix()))
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            elif entry.is_file():
                files.append(path)
            else:
                left_out[NO_FILE].append(printable(path.relative_to(folder).as_posix()))
    return Listing(folder, tuple(sorted(files)), {why: sorted(names) for why, names in left_out.items()})


def _identity(folder: Path) -> tuple[int, int]:
    there = folder.stat()
    return there.st_dev, there.st_ino


def is_system(name: str) -> bool:
    """Whether this is the name of a file or folder that an operating system or tool creates."""
    lower = name.lower()
    return lower.startswith("._") or lower in SYSTEM_FILES or lower in SYSTEM_FOLDERS


def is_meant(path: str) -> bool:
    """Whether a path within an archive is neither hidden nor a system file."""
    parts = [part for part in PurePosixPath(path).parts if part not in (".", "/")]
    return not any(part.startswith(".") or is_system(part) for part in parts)


def inside(folder: Path, name: str) -> Path:
    """The file of this name in a folder.

    Raises:
        ValueError: the path is outside the folder.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or (name[1:2] == ":" and os.name == "nt"):
        raise ValueError(f"the path {shown(name)} is outside {printable(folder)}")
    plain = folder / name
    return plain if "\\" not in name or plain.exists() else folder / path


def expand(pattern: Path) -> tuple[list[Path], list[str]]:
    """The files and folders that match a pattern, and the names without a match. Besides `*`, `?` and `[...]`, patterns
    may contain `{000..010}` and `{a,b}`.

    Raises:
        ValueError: unbalanced braces, or too many names.
    """
    found: dict[Path, None] = {}
    missing: list[str] = []
    for name in _braces(str(pattern)):
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        if not matches:
            missing.append(printable(name))
        found |= dict.fromkeys(Path(match) for match in matches if not is_system(os.path.basename(match)))
    return list(found), missing


def is_pattern(path: Path) -> bool:
    """Whether a path contains wildcards or braces."""
    return bool(set("*?[{") & set(str(path)))


def _braces(pattern: str) -> list[str]:
    from itertools import islice

    from braceexpand import braceexpand

    names: list[str] = []
    large = any(abs(int(last) - int(first)) > MOST_EXPANDED for first, last in RANGE.findall(pattern))
    try:
        names = [] if large else list(islice(braceexpand(pattern), MOST_EXPANDED + 1))
    except ValueError as error:
        raise ValueError(f"{pattern}: unbalanced braces; write {{000..010}} or {{a,b}}") from error
    if large or len(names) > MOST_EXPANDED:
        raise ValueError(f"{pattern} expands to more than {MOST_EXPANDED:,} names")
    return names


def printable(name: str | os.PathLike[str]) -> str:
    """A file name as printable text; bytes that are not UTF-8 are written as `\\xe9`."""
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # from a description; not a possible file name
        return ascii(os.fspath(name))[1:-1]


def summarise(left_out: LeftOut) -> dict[str, str]:
    """For each reason, the number of skipped files and the first names."""
    shown = {why: ", ".join(names[:MOST_NAMES]) for why, names in left_out.items() if names}
    return {
        why: f"{len(left_out[why])} ({first}{', ...' if len(left_out[why]) > MOST_NAMES else ''})"
        for why, first in shown.items()
    }


def in_words(left_out: Mapping[str, str]) -> str:
    """The result of `summed` in one line."""
    return "; ".join(f"{why} {names}" for why, names in left_out.items())
