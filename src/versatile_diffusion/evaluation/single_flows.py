"""A model of several flows beside models of one flow each (paper section 4.2): their losses on held-out items."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from versatile_diffusion.evaluation.markdown import BESIDE, table
from versatile_diffusion.evaluation.plots import Point, line_plot
from versatile_diffusion.evaluation.training_curves import flow_course, run_settings
from versatile_diffusion.training.emoji import SMALL
from versatile_diffusion.training.mixture import STAGES
from versatile_diffusion.training.settings import FOUR_FLOWS

ALIKE = (
    *("unet", "batch", "prediction", "min_snr", "zero_terminal_snr", "noise_offset"),
    *("noises", "lowest_timestep", "dropout", "lr", "weight_decay", "muon_lr", "not_muon", "optimizer"),
)
"""Settings without which two losses do not mean the same."""
HEAD = ("flow", "items of it", "loss, of several flows", "loss, alone", "difference")
HEADING = "\n## "
TITLE = "# One model of several flows beside models of one flow each"


@dataclass(frozen=True)
class Beside:
    """The losses of a flow in the model of several and in its own, against thousands of items of this flow."""

    flow: str
    several: Sequence[Point]
    alone: Sequence[Point]

    @property
    def difference(self) -> float:
        """Of the last losses, as a share of the one alone; below 0 the model of several flows is better."""
        return self.several[-1][1].value / self.alone[-1][1].value - 1

    def told(self) -> tuple[str, ...]:
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
        "Does one model of several flows do what models of one flow each do (paper, section 4.2)? All began fresh and "
        "were trained with the same data, codecs, context encoders, settings and seed; in each the learning rate rises "
        "over a tenth of the steps and falls to zero at the end; each flow saw as many items in its own model as in "
        f"the one of several. That one has width {settings['unet']['width']} and had **{steps:,} steps** of "
        f"{' or '.join(f'{count} {modality}s' for modality, count in batch.items())}, where the recipe's "
        f"has width {SMALL.unet['width']}, {FOUR_FLOWS:,} steps and batches of "
        f"{' or '.join(str(count) for count in SMALL.batch.values())}. "
        + ("A shorter training shows how one begins, not who is better at its end. " if steps < FOUR_FLOWS else "")
        + f"Texts are generated as latents of {text} channels. One seed each: how much another one would change is not "
        "known. `scripts/compare_single_flows.sh` makes this page.",
        "## Losses on held-out items",
        "Mean squared error of the averaged model's prediction at the end, always on the same items, noise and noise "
        "levels; a difference below zero says that the model of several flows is better. Where the velocity is "
        "predicted, zeros have a loss of about 1. In the plots the items of other flows, on which the model of several "
        "was trained in between, do not count.",
        table(HEAD, [one.told() for one in found]),
    ]
    plot_folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        if min(len(one.several), len(one.alone)) < 2:
            continue
        file = plot_folder / f"loss-{one.flow}.svg"
        curves = {"in the model of several flows": one.several, "alone": one.alone}
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
    page.write_text(HEADING.join([f"{text}\n\n## What they make\n\n{told}", *parts]), encoding="utf-8")


def main() -> None:
    """Puts the losses of a run of several flows and of runs of one flow each into the page that compares them."""
    parser = argparse.ArgumentParser(
        prog="python -m versatile_diffusion.evaluation.single_flows", description=main.__doc__
    )
    parser.add_argument("several", type=Path, help="folder of the run of several flows")
    parser.add_argument("single", nargs="+", type=Path, help="folders of the runs of one flow each")
    parser.add_argument("--page", type=Path, required=True, help="what versatile evaluate --page wrote")
    given = parser.parse_args()
    found = losses_beside(given.several, given.single)
    insert(given.page, section(given.several, found, given.page.parent / "images" / given.page.stem))


if __name__ == "__main__":
    main()
