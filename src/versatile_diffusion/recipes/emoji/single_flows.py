"""A model of several flows beside models of one flow each (paper section 4.2): their losses on held-out items."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from versatile_diffusion.evaluation.markdown import BESIDE, table
from versatile_diffusion.evaluation.plots import Point, line_plot
from versatile_diffusion.evaluation.training_curves import flow_course, run_settings
from versatile_diffusion.recipes.emoji.diffuser import SMALL
from versatile_diffusion.recipes.emoji.settings import FOUR_FLOWS
from versatile_diffusion.training.diffuser.mixture import STAGES

ALIKE = (
    *("unet", "batch", "prediction", "min_snr", "zero_terminal_snr", "noise_offset"),
    *("noises", "lowest_timestep", "dropout", "lr", "weight_decay", "muon_lr", "not_muon", "optimizer"),
)
"""Settings without which two losses do not mean the same."""
HEAD = ("flow", "items seen", "multi-flow loss", "single-flow loss", "difference")
HEADING = "\n## "
TITLE = "# Multi-flow model compared with single-flow models"


@dataclass(frozen=True)
class Beside:
    """The losses of a flow in the model of several and in its own, against thousands of items of this flow."""

    flow: str
    several: Sequence[Point]
    alone: Sequence[Point]

    @property
    def difference(self) -> float:
        """Of the last losses, as a share of the one alone; below 0 the model of several flows is better."""
        several, alone = self.several[-1][1].value, self.alone[-1][1].value
        assert several is not None
        assert alone is not None  # losses always have a number
        return several / alone - 1

    def cells(self) -> tuple[str, ...]:
        """For a row of a table."""
        items, mine = self.several[-1]
        theirs = self.alone[-1][1]
        return (
            *(self.flow, f"{1000 * items:,.0f}", f"{mine.value:.4f}", f"{theirs.value:.4f}"),
            f"{100 * self.difference:+.1f} %",
        )


def losses_beside(several: Path, single: Sequence[Path]) -> list[Beside]:
    """Each flow's loss on held-out items in the run of several flows and in its own.

    Args:
        several: folder of a finished run of the diffuser.
        single: likewise, of one flow each.

    Raises:
        ValueError: a folder holds no run of the diffuser, or the two were not trained alike, with as many items.
    """
    found, told = [], run_settings(several)[0]
    for run in single:
        theirs = run_settings(run)[0]
        flows = theirs.get("flows") or STAGES[theirs["stage"]]
        if len(flows) > 1:
            raise ValueError(f"{run} trained {', '.join(flows)}, not one flow")
        (flow,) = flows
        if other := [name for name in ALIKE if told.get(name) != theirs.get(name)]:
            raise ValueError(
                f"{several} and {run} were trained with other {', '.join(other)}: their losses differ anyway"
            )
        beside = Beside(flow, flow_course(several, flow), flow_course(run, flow))
        ends = [f"{1000 * points[-1][0]:g}" if points else "no" for points in (beside.several, beside.alone)]
        if "no" in ends or ends[0] != ends[1]:
            raise ValueError(f"{several} measured {flow} last after {ends[0]} items of it, {run} after {ends[1]}")
        found.append(beside)
    return found


def section(several: Path, found: Sequence[Beside], plot_folder: Path) -> str:
    """Markdown: a title, how the runs were made, a table, and a plot (written into `plot_folder`) for each flow that
    both runs measured more than once."""
    settings = run_settings(several)[0]
    steps, batch, text = settings["loop"]["steps"], settings["batch"], settings["data_streams"]["text"]["width"]
    told = [
        TITLE,
        "Does one multi-flow model match several single-flow models (paper, section 4.2)? All were trained from "
        "scratch with the same data, codecs, context encoders, settings and seed. The learning rate warms up over a "
        "tenth of the steps and decays to zero. Each flow saw the same number of items in both models. The multi-flow "
        f"model has width {settings['unet']['width']} and was trained for **{steps:,} steps** with batches of "
        f"{' or '.join(f'{count} {modality}s' for modality, count in batch.items())}; the full recipe has width "
        f"{SMALL.unet['width']}, {FOUR_FLOWS:,} steps and batches of "
        f"{' or '.join(str(count) for count in SMALL.batch.values())}. "
        + ("A shorter run shows early training, not which model is better in the end. " if steps < FOUR_FLOWS else "")
        + f"Text latents have {text} channels. One seed each, so the variance between seeds is unknown. "
        "`scripts/compare_single_flows.sh` generates this page.",
        "## Losses on held-out items",
        "Mean squared error of the EMA model at the end of training, on the same items, noise and noise levels. A "
        "negative difference means that the multi-flow model is better. With velocity prediction, predicting zeros "
        "gives a loss of about 1. The x axis of the plots counts the items of that flow only.",
        table(HEAD, [one.cells() for one in found]),
    ]
    plot_folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        if min(len(one.several), len(one.alone)) < 2:
            continue
        file = plot_folder / f"loss-{one.flow}.svg"
        curves = {"multi-flow": one.several, "single-flow": one.alone}
        plot = line_plot(curves, f"{one.flow}: loss on held-out items", "thousands of items")
        file.write_text(plot, encoding="utf-8")
        told.append(f"![{one.flow}](images/{plot_folder.name}/{file.name})")
    return "\n\n".join(told)


def insert(page: Path, text: str) -> None:
    """Puts the section in place of the title of a page that `versatile evaluate --page` wrote, and the comparison with
    the other models before all that is about the one."""
    written, *parts = page.read_text(encoding="utf-8").split(HEADING)
    _, _, told = written.partition("\n\n")
    parts.sort(key=lambda part: not part.startswith(BESIDE))
    page.write_text(HEADING.join([f"{text}\n\n## Generated results\n\n{told}", *parts]), encoding="utf-8")


def main() -> None:
    """Puts the losses of a run of several flows and of runs of one flow each into the page that compares them."""
    parser = argparse.ArgumentParser(
        prog="python -m versatile_diffusion.recipes.emoji.single_flows", description=main.__doc__
    )
    parser.add_argument("several", type=Path, help="folder of the run of several flows")
    parser.add_argument("single", nargs="+", type=Path, help="folders of the runs of one flow each")
    parser.add_argument("--page", type=Path, required=True, help="what versatile evaluate --page wrote")
    given = parser.parse_args()
    found = losses_beside(given.several, given.single)
    insert(given.page, section(given.several, found, given.page.parent / "images" / given.page.stem))


if __name__ == "__main__":
    main()
