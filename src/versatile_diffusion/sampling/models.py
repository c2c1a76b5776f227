"""Where models come from: shipped ones by name, folders, the hub; and how diffusers finds our classes in them."""

from __future__ import annotations

from importlib.metadata import entry_points
from os import PathLike
from pathlib import Path

from diffusers.pipelines import pipeline_loading_utils

MODELS_GROUP = "versatile_diffusion.models"
INDEX = "model_index.json"
CHECKOUT = Path(__file__).parents[3] / "models"


def register_classes() -> None:
    """Makes diffusers write and read our components as `["versatile_diffusion", "MultiFlowUNet"]`.

    Without it a model's files name the module that a class is in (so moving a file would break them), and the hub
    refuses them. The table is not part of diffusers' public interface: a test stands guard.
    """
    methods = ["save_pretrained", "from_pretrained"]
    pipeline_loading_utils.LOADABLE_CLASSES["versatile_diffusion"] = {"ModelMixin": methods, "SchedulerMixin": methods}


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


def find_model(name: str | PathLike[str]) -> str:
    """The folder of a shipped model or a folder as given; or a hub id (`owner/name`), unchanged.

    Raises:
        ValueError: it is none of these.
    """
    shipped = shipped_models()
    if str(name) in shipped:
        return str(shipped[str(name)])
    folder = Path(name)
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise ValueError(f"{folder} holds no {INDEX}; published weights are read with from_official")
        return str(folder)
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    known = ", ".join(sorted(shipped)) or "none is installed"
    raise ValueError(f"no model {str(name)!r}; shipped models: {known}. Else give a folder, or a hub id as owner/name")
