"""A model to the Hugging Face hub, with its page."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.pipeline.card import About, card_of, file_of
from versatile_diffusion.printable import shown
from versatile_diffusion.records.png import write_value
from versatile_diffusion.shipped import HUB_ID

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline

CARD = "README.md"
SEED = 0
"""Of the images on the page."""


@dataclass(frozen=True)
class Upload:
    """What is uploaded, or would be.

    Args:
        repo_id: where to.
        sizes: bytes of each file, by its place.
        card: text of the page; None where the one that is there stays.
        url: of the commit; None if nothing was uploaded.
    """

    repo_id: str
    sizes: Mapping[str, int]
    card: str | None
    url: str | None = None


class HubMethods:
    """`push_to_hub` of diffusers, with a page that says what the model is."""

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        *,
        about: About | None = None,
        dry_run: bool = False,
    ) -> Upload:
        """Uploads the model and its page (`README.md`) to the hub; a page that is there stays, unless `about` has a
        text. What is uploaded loads by `from_pretrained(repo_id)`.

        Args:
            repo_id: OWNER/NAME; created if there is none.
            commit_message, private, token, create_pr, variant: as in diffusers.
            safe_serialization: must be true; weights are always safetensors.
            about: what the page should say; its prompts are drawn for it.
            dry_run: write everything, and upload nothing.

        Raises:
            ValueError: `repo_id` is no id, or pickled weights are asked for.
        """
        if not HUB_ID.fullmatch(repo_id) or "@" in repo_id:
            raise ValueError(f"repo_id is {shown(repo_id)}; it must be OWNER/NAME")
        if not safe_serialization:
            raise ValueError("safe_serialization is False; weights are always safetensors. Omit it")
        pipe, about = cast("VersatileDiffusionPipeline", self), about or About()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pipe.save_pretrained(folder, variant=variant)
            drawn = _draw(pipe, about, folder)
            card = str(card_of(pipe, repo_id, about, drawn))
            (folder / CARD).write_text(card, encoding="utf-8")
            if not dry_run:
                return _upload(folder, repo_id, about, card, private, token, commit_message, create_pr)
            return Upload(repo_id, _sizes(folder), card)


def _draw(pipe: VersatileDiffusionPipeline, about: About, folder: Path) -> bool:
    """Draws the prompts of a page, where the model can; whether it could."""
    typed = [name for name in pipe.unet.context if MODALITIES[name].form == "typed"]
    flows = [Flow(data, (name,)) for data in pipe.unet.data if MODALITIES[data].draw is not None for name in typed]
    flow = next((flow for flow in flows if pipe.can(flow)), None)
    if flow is None or not about.prompts:
        return False
    for prompt in about.prompts:
        item = pipe.generate(flow.data, [Condition(flow.contexts[0], prompt)], seed=SEED)[0]
        file = folder / file_of(prompt)
        file.parent.mkdir(exist_ok=True)
        with file.open("wb") as stream:
            write_value(flow.data, item.values[0], stream, item.settings)
    return True


def _sizes(folder: Path) -> dict[str, int]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _upload(
    folder: Path,
    repo_id: str,
    about: About,
    card: str,
    private: bool | None,
    token: str | None,
    message: str | None,
    create_pr: bool,
) -> Upload:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    kept = about.text is None and api.file_exists(repo_id, CARD)
    if kept:
        (folder / CARD).unlink()
    commit: Any = api.upload_folder(
        repo_id=repo_id, folder_path=folder, commit_message=message or "Upload the model", create_pr=create_pr
    )
    return Upload(repo_id, _sizes(folder), None if kept else card, str(commit.commit_url))
