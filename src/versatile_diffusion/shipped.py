"""Models that are installed, and what can be said of them without loading one."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

MODELS_GROUP = "versatile_diffusion.models"
INDEX = "model_index.json"
CHECKOUT = Path(__file__).parents[2] / "models"


def shipped_models() -> dict[str, Path]:
    """Folders of the models that are installed, by name.

    A distribution brings one through the entry point group `versatile_diffusion.models`: its name, and an object that
    is the folder (or a function that returns it). In a checkout, `models/NAME/` counts too.
    """
    indexes = sorted(CHECKOUT.glob(f"*/**/{INDEX}")) if CHECKOUT.is_dir() else []
    found = {index.relative_to(CHECKOUT).parts[0]: index.parent for index in indexes}
    for point in entry_points(group=MODELS_GROUP):
        where = point.load()
        found[point.name] = Path(where() if callable(where) else where)
    return found


def styles_of(name: str) -> list[str]:
    """Styles of a shipped model or a folder; none where that cannot be told."""
    index = shipped_models().get(name, Path(name)) / INDEX
    try:
        return list(json.loads(index.read_text(encoding="utf-8"))["styles"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
