"""File cache for expensive tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from versatile_diffusion.files import write_whole


def load_cached(path: Path, name: str, compute: Callable[[], Tensor]) -> Tensor:
    """Load the tensor `name` from a file; compute and write it if the file is missing or damaged."""
    if path.exists():
        try:
            return load_file(path)[name]
        except (SafetensorError, KeyError) as error:
            tqdm.write(f"{path} is damaged ({error}); computing it again", file=sys.stderr)
    tensor = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, partial(save_file, {name: tensor.contiguous().cpu()}))
    return tensor
