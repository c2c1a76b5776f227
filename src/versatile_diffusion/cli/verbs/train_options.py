"""The options of `versatile train`, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from versatile_diffusion.cli.options import Device, among, models, tasks

OBJECTIVES = (
    "image-codec, text-codec, context-encoders, image-context, judge or diffuser; or audio-codec, audio-context or "
    "speech-judge (--settings speech)."
)
METHODS = "trajectory, progressive, multistep or consistency"
SETTINGS_HELP = "Named settings of the objective; with --from, the paper's: basic, dual-context or official."

Start = Annotated[
    str | None, typer.Option("--from", help="Fine-tune this model on your own --data.", autocompletion=models)
]
Flows = Annotated[
    str | None,
    typer.Option(help="With --from: flows to train, e.g. text-to-image; default: all.", autocompletion=tasks),
]
Parallel = Annotated[
    str | None,
    typer.Option(
        help="Replicate the model (ddp), shard it (fsdp), or shard it within nodes (hsdp).",
        autocompletion=among("parallel"),
    ),
]


class TrainOptions:
    """Types and defaults of the options, in the order of the help."""

    objective: Annotated[str | None, typer.Argument(help=OBJECTIVES, autocompletion=among("objective"))] = None
    data: Annotated[Path | None, typer.Option(help="Data set built by `versatile data`; with --from, your own.")] = None
    stream: Annotated[
        list[str] | None,
        typer.Option(metavar="SET[@WEIGHT]", help="With --from: stream these shards instead of reading --data."),
    ] = None
    window: Annotated[int | None, typer.Option(min=1, help="With --stream: shuffle window, in samples.")] = None
    out: Annotated[
        Path | None, typer.Option(help="Output folder; an interrupted run there is resumed. Default: below runs/.")
    ] = None
    settings: Annotated[str, typer.Option(help=SETTINGS_HELP)] = "emoji"
    minutes: Annotated[float | None, typer.Option(help="Stop cleanly after this many minutes.")] = None
    steps: Annotated[int | None, typer.Option(min=1, help="Total training steps.")] = None
    end: Annotated[int | None, typer.Option(min=1, help="End a run with a trapezoid schedule at this step.")] = None
    by_clock: Annotated[float | None, typer.Option(help="Minutes of training; the learning rate reaches 0 then.")] = (
        None
    )
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed.")] = None
    device: Device = None
    start: Start = None
    flows: Flows = None
    only: Annotated[
        str | None, typer.Option(help="With --from: groups or streams to train, e.g. context,data.text.")
    ] = None
    lora: Annotated[int | None, typer.Option(min=1, help="With --from: train LoRA adapters of this rank.")] = None
    distill: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Distil this model to few steps, on --data.", autocompletion=models),
    ] = None
    distill_steps: Annotated[
        int | None,
        typer.Option(help="With --distill: steps of the result, 1, 2, 4 or 8; 0 distils guidance alone; default: 4."),
    ] = None
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"With --distill: {METHODS}; default: the first."),
    ] = None
    lr: Annotated[float | None, typer.Option(help="With --from: learning rate.")] = None
    batch: Annotated[int | None, typer.Option(min=1, help="With --from: batch size of each flow.")] = None
    config: Annotated[Path | None, typer.Option(help="With --from: JSON file of settings; options override it.")] = None
    aspect: Annotated[float | None, typer.Option(help="With --from: keep aspect ratios, up to this : 1.")] = None
    encoding: Annotated[str | None, typer.Option(help="With --from: encoding of the captions, if not UTF-8.")] = None
    warm_start: Annotated[
        str | None, typer.Option(help="With --settings basic: initialise from this Stable Diffusion v1.")
    ] = None
    phase: Annotated[
        int | None, typer.Option(min=1, max=2, help="Phase of the paper's settings: 1 at 256 pixels, 2 at 512.")
    ] = None
    plan: Annotated[
        bool | None,
        typer.Option("--plan", help="Print parameters, memory and time of the paper's settings; train nothing."),
    ] = None
    gpus: Annotated[int | None, typer.Option(min=1, help="With --plan: total number of GPUs; default: 8.")] = None
    per_node: Annotated[int | None, typer.Option(min=1, help="With --plan: GPUs per node; default: 8.")] = None
    tflops: Annotated[float | None, typer.Option(help="With --plan: peak bfloat16 TFLOPS of a GPU; default: 989.")] = (
        None
    )
    mfu: Annotated[float | None, typer.Option(help="With --plan: model FLOPS utilisation; default: 0.35.")] = None
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address of a Ray cluster; local starts one here.")
    ] = None
    nodes: Annotated[int | None, typer.Option(min=1, help="With --ray: number of nodes, --nproc processes each.")] = (
        None
    )
    nproc: Annotated[int, typer.Option(min=1, help="Processes on this machine (or use torchrun).")] = 1
    parallel: Parallel = None
    accumulate: Annotated[int | None, typer.Option(min=1, help="Gradient accumulation steps.")] = None
    clip: Annotated[float | None, typer.Option(help="Max gradient norm (clipping).")] = None
    bf16: Annotated[
        bool | None, typer.Option(help="bfloat16 mixed precision; default: on a GPU, and as --settings say.")
    ] = None
    compile: Annotated[str | None, typer.Option(help="torch.compile backend, e.g. inductor.")] = None
    activation_checkpointing: Annotated[
        bool | None, typer.Option(help="Recompute activations: less memory, a third slower.")
    ] = None
    checkpoints: Annotated[
        str | None, typer.Option(help="Folder or URL of sharded checkpoints; default: one file in the run's folder.")
    ] = None
    keep: Annotated[int | None, typer.Option(min=1, help="Number of checkpoints to keep.")] = None
    checkpoint_minutes: Annotated[float | None, typer.Option(help="Minutes between checkpoints.")] = None
    eval_minutes: Annotated[float | None, typer.Option(help="Minutes between evaluations on held-out data.")] = None
    sample_minutes: Annotated[float | None, typer.Option(help="Minutes between sample sheets.")] = None
    export_minutes: Annotated[float | None, typer.Option(help="Minutes between exports of the EMA weights.")] = None
    warmup: Annotated[int | None, typer.Option(min=0, help="Learning rate warmup steps.")] = None
    posthoc: Annotated[str | None, typer.Option(help="EMA widths to store, e.g. 0.05,0.1.")] = None
    wandb: Annotated[bool | None, typer.Option(help="Also log to Weights & Biases (offline by default).")] = None
    timeout: Annotated[float, typer.Option(help="Process timeout in minutes.")] = 30.0
    export: Annotated[Path | None, typer.Option(help="Export this run in its current state; train nothing.")] = None
    to: Annotated[Path | None, typer.Option(help="With --export: output folder.")] = None
    ema: Annotated[float | None, typer.Option(help="With --export: relative EMA width.")] = None
    force: Annotated[bool | None, typer.Option("--force", help="With --export: overwrite an earlier export.")] = None
    json: Annotated[bool | None, typer.Option("--json", help="Print the result as JSON.")] = None
