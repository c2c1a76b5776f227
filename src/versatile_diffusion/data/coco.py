"""COCO caption files: `annotations/captions_val2017.json` next to an image folder `val2017`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from versatile_diffusion.data.captions import Captions, UnusableError, captions_of
from versatile_diffusion.data.listing import inside, printable
from versatile_diffusion.data.shards import Raw, digest, stamp
from versatile_diffusion.data.tables import NO_PICTURE
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import read_json

MOST_BYTES = 1 << 30
"""Maximum size of a caption file; that of COCO's training images has 92 MB."""
PREFIX = "captions_"


@dataclass(frozen=True)
class CocoCaptions:
    """Images with several captions each, in the order of the file's `images`.

    Args:
        path: the JSON file, with `images` (`id`, `file_name`) and `annotations` (`image_id`, `caption`).
        encoding: of the captions, if specified.
    """

    path: Path
    encoding: str | None = None

    @cached_property
    def content(self) -> str:
        return digest([stamp(self.path), *(f"{raw.key} {raw.content}" for raw in self.samples(0))])

    @cached_property
    def _read(self) -> tuple[list[Any], Mapping[Any, list[Any]]]:
        """The image rows, and the captions by image id."""
        table = read_json(self.path, MOST_BYTES)
        images, annotations = table.get("images"), table.get("annotations")
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise ValueError(
                f"{self.path} is not a COCO caption file: it lacks the lists images and annotations; "
                f"it has {', '.join(map(shown, list(table)[:8])) or 'nothing'}"
            )
        captions = defaultdict(list)
        for row in annotations:
            if isinstance(row, Mapping) and isinstance(row.get("image_id"), int | str):
                captions[row["image_id"]].append(row.get("caption"))
        return images, captions

    @cached_property
    def folders(self) -> list[Path]:
        """Where to look for images: the file's folder and its parent, and folders named after the split in either."""
        split = self.path.stem.removeprefix(PREFIX)
        beside = [self.path.parent, self.path.parent.parent]
        return [*(folder / split for folder in beside), *(folder / "images" / split for folder in beside), *beside]

    def samples(self, start: int) -> Iterator[Raw]:
        images, captions = self._read
        for number, row in enumerate(islice(images, start, None), start):
            name = row.get("file_name") if isinstance(row, Mapping) else None
            key = printable(name) if isinstance(name, str) and name else f"image {number}"
            found = captions.get(row.get("id"), []) if isinstance(row, Mapping) else []
            file = self._file(name)
            content = digest([stamp(file) if file else "-", ascii(found)])
            yield Raw(key, content, partial(self._sample, name, file, found), f"{self.path.name}: {key}")

    def _file(self, name: Any) -> Path | None:
        if not isinstance(name, str):
            return None
        try:
            places = [inside(folder, name) for folder in self.folders]
        except ValueError:
            return None  # reported when the sample is read
        return next((place for place in places if place.is_file()), None)

    def _sample(self, name: Any, file: Path | None, captions: Sequence[Any]) -> tuple[Path, Captions]:
        if file is None:
            raise UnusableError(NO_PICTURE, f"no file {shown(name)} below {self.path.parent.parent}")
        return file, captions_of({"caption": list(captions)}, self.encoding)
