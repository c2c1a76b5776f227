"""What people mean by verbs and options of other programs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from versatile_diffusion.controls import CONDITION, REQUEST, RESULT, RUN
from versatile_diffusion.tasks import TASKS

VERBS: Mapping[str, str] = {
    **dict.fromkeys(("txt2img", "t2i", "text2image", "txt2image", "generate", "draw", "imagine"), "text-to-image"),
    **dict.fromkeys(("img2txt", "i2t", "image2text", "caption", "interrogate", "blip"), "image-to-text"),
    **dict.fromkeys(("img2img", "i2i", "vary", "variation", "variations"), "image-variation"),
    **dict.fromkeys(("txt2txt", "rewrite", "paraphrase"), "text-variation"),
    **dict.fromkeys(("mix", "interpolate", "merge", "compose"), "blend"),
    **dict.fromkeys(("webui", "gradio", "studio", "gui", "app", "web"), "ui"),
    **dict.fromkeys(("info", "models", "list", "show"), "describe"),
    **dict.fromkeys(("download", "install", "pull"), "fetch"),
    **dict.fromkeys(("finetune", "fine-tune", "dreambooth"), "train"),
    **dict.fromkeys(("eval", "benchmark", "score"), "evaluate"),
    **dict.fromkeys(("check", "diagnose", "env"), "doctor"),
    **dict.fromkeys(("export", "import", "save"), "convert"),
    **dict.fromkeys(("grid", "xyz", "plot"), "sweep"),
}
OPTIONS: Mapping[str, str] = {
    **dict.fromkeys(("output", "o", "outdir", "output-dir", "out-dir", "outpath", "save", "dir"), "--out"),
    **dict.fromkeys(("gpu", "cuda", "use-gpu"), "--device cuda"),
    **dict.fromkeys(("cpu", "no-gpu"), "--device cpu"),
    **dict.fromkeys(("fp16", "half", "float16"), "--dtype float16"),
    **dict.fromkeys(("bf16", "bfloat16"), "--dtype bfloat16"),
    **dict.fromkeys(("fp32", "full-precision", "no-half", "float32"), "--dtype float32"),
    **dict.fromkeys(("checkpoint", "ckpt", "model-name", "model-id", "model-path", "pretrained"), "--model"),
    **dict.fromkeys(("guidance", "scale", "guide", "cfg-rescale"), "--guidance-scale"),
    **dict.fromkeys(("num-steps", "sampling-steps", "ddim-steps", "s", "inference-steps"), "--steps"),
    **dict.fromkeys(
        ("batch", "batch-size", "num-outputs", "num", "number", "samples", "n-samples", "num-images", "images"),
        "--count",
    ),
    **dict.fromkeys(("mask-image", "mask-file"), "--mask"),
    **dict.fromkeys(("size", "resolution", "res"), "--height and --width"),
    **dict.fromkeys(("max-new-tokens", "max-tokens", "length"), "--max-length"),
    **dict.fromkeys(("force", "again", "f"), "--overwrite"),
    **dict.fromkeys(("inpaint", "region"), "--repaint"),
    **dict.fromkeys(("strength", "denoising-strength", "denoise", "denoising"), "--fidelity, which is 1 - strength"),
}
SENTENCES: Mapping[str, str] = {
    **dict.fromkeys(("prompt", "p", "text", "input", "image", "i", "file"), "{argument} is given without an option"),
    "lora": "adapters act in Python, by pipe.load_lora_weights; `versatile train --lora RANK` trains one",
    **dict.fromkeys(
        ("precision", "dtype"),
        "`versatile convert MODEL FOLDER --dtype float16` writes a model in half precision",
    ),
    **dict.fromkeys(("verbose", "v", "debug"), "VERSATILE_DEBUG=1 in the environment shows tracebacks"),
}


def of_verb(name: str) -> str | None:
    """The verb that people mean by a name."""
    return VERBS.get(name.lower())


def of_option(given: str, verb: str | None, arguments: str) -> str | None:
    """What to say of an option that a verb has not; None if nothing better is known than the closest name.

    Args:
        given: as typed, such as `--prompt`.
        verb: the name of the command.
        arguments: what stands for its arguments, such as `TEXT`.
    """
    name = given.lstrip("-").lower().replace("_", "-")
    if (elsewhere := _tasks_with(name)) and verb in TASKS and verb not in elsewhere:
        return f"{given} does not apply to {verb}; it belongs to {', '.join(elsewhere)}"
    if verb == "train" and OPTIONS.get(name, "").startswith("--dtype"):
        return "train computes in float32, or with --bf16 in bfloat16"
    if name in SENTENCES:
        return SENTENCES[name].format(argument=arguments or "what is made")
    return f"Did you mean {OPTIONS[name]}?" if name in OPTIONS else None


def _tasks_with(name: str) -> list[str]:
    """The tasks that have an option."""
    tables = (REQUEST, RUN, RESULT, {key: CONDITION[key] for key in ("mask", "focus")})
    for control in (control for table in tables for control in table.values()):
        if name in (one.replace("_", "-") for one in (control.option, *control.aliases)):
            return [task.name for task in TASKS.values() if control.belongs(task.flow)]
    return []


NO_COMMAND = re.compile(r"No such command '([^']*)'")
