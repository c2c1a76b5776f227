"""`versatile upload`: a model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from versatile_diffusion.cli.io.console import note, show, show_json
from versatile_diffusion.cli.options import Json, models

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.hub import Upload


def upload(
    source: Annotated[
        str, typer.Argument(help="Folder or checkpoint in any layout, or shipped model.", autocompletion=models)
    ],
    to: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Repository on the hub; created if missing.")],
    license: Annotated[str | None, typer.Option(metavar="ID", help="Licence, e.g. apache-2.0.")] = None,
    base_model: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Model that this one was trained from.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="OWNER/NAME", help="Data set it was trained on; may repeat.")
    ] = None,
    language: Annotated[str | None, typer.Option(metavar="CODE", help="Language of its prompts, e.g. en.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Prompt to draw for the model card; may repeat.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Markdown text of the model card instead of the generated one.")
    ] = None,
    message: Annotated[str | None, typer.Option(metavar="TEXT", help="Commit message.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the model card; upload nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Upload a model to the Hugging Face hub, with a model card: widget, metadata, usage.

    It loads with from_pretrained("OWNER/NAME"). Log in with `hf auth login` or the variable HF_TOKEN. An existing model
    card is kept, unless --card is given.
    """
    from versatile_diffusion.cli.io.model import without_bars
    from versatile_diffusion.pipeline.card import About
    from versatile_diffusion.reading import reading

    text = None
    if card is not None:
        with reading(card, "a model card"):
            text = card.read_text(encoding="utf-8-sig")
    about = About(license, base_model, tuple(dataset or ()), language, tuple(prompt or ()), text)
    without_bars()
    uploaded = _upload(source, to, about, message, private, create_pr, dry_run)
    if json:
        return show_json(vars(uploaded))
    for name, size in uploaded.sizes.items():
        show(f"{size:>14,}  {name}")
    show(f"{sum(uploaded.sizes.values()):>14,}  bytes in total")
    if dry_run:
        show("")
        for line in (uploaded.card or "").splitlines():
            show(line)
        return note("dry run: nothing was uploaded")
    if uploaded.card is None:
        note("the model card that was there is kept; --card FILE replaces it")
    return show(str(uploaded.url))


def _upload(
    source: str, to: str, about: object, message: str | None, private: bool, create_pr: bool, dry_run: bool
) -> Upload:
    """Upload in the precision that the files have.

    Raises:
        ValueError: no such model, or the hub refuses it.
    """
    from typing import Any

    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.interop.read.layouts import recognise
    from versatile_diffusion.pipeline.models import fetch_model, find_model

    place = fetch_model(find_model(source), {})
    pipe = VersatileDiffusionPipeline.from_pretrained(place, recognise(place).dtype)
    pipe.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"commit_message": message, "private": private or None, "create_pr": create_pr}
    try:
        return pipe.load_now().push_to_hub(to, about=about, dry_run=dry_run, **given)  # type: ignore[arg-type]
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        raise ValueError(f"the hub refused the upload to {to}: {' '.join(str(error).split())[:300]}") from error
