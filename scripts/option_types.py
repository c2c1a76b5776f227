"""Writes `pipeline/options.py`: the options of a generation as a class for editors and type checkers.

python scripts/option_types.py [--check]
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from generated import write_or_check

import versatile_diffusion
from versatile_diffusion.controls import DECODING, REQUEST
from versatile_diffusion.pipeline.names import OF_A_RUN, OTHER_NAMES
from versatile_diffusion.pipeline.signature import kinds, type_name

FILE = Path(versatile_diffusion.__file__).parent / "pipeline" / "options.py"
HEAD = '''"""Options of a generation, for editors and type checkers.

Written by `scripts/option_types.py` from `controls.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class Options(TypedDict, total=False):
    """What `VersatileDiffusionPipeline.generate` takes besides its own arguments."""

'''


MORE = '''

class TaskOptions(Options, total=False):
    """What the methods of tasks take besides their own arguments: those of `generate`, too."""
'''
OF_DECODING = '''

class DecodingOptions(TypedDict, total=False):
    """What `VersatileDiffusionPipeline.decode_latent` takes besides its own arguments."""
'''
RUN_TYPES = {
    "output_type": "str",
    "return_dict": "bool",
    "callback_on_step_end_tensor_inputs": "Sequence[str] | None",
}


def text() -> str:
    """The module."""
    types = {name: type_name(kind) for name, kind in kinds().items()}
    types |= {other: types[own] for other, own in OTHER_NAMES.items() if own in types} | {
        "strength": "float",
        "output": "str",
    }
    lines = []
    for name, kind in types.items():
        lines.append(f"    {name}: {kind}")
        help = f'"""{REQUEST[name].help}"""' if name in REQUEST else ""
        lines += textwrap.wrap(help, 118, initial_indent="    ", subsequent_indent="    ")
    run = [f"    {name}: {RUN_TYPES.get(name, 'Any')}" for name in OF_A_RUN]
    decoding = [f"    {name}: {types[name]}" for name in DECODING]
    return HEAD + "\n".join([*lines, MORE, *run, OF_DECODING, *decoding]) + "\n"


if __name__ == "__main__":
    write_or_check(FILE, text, __doc__, "is old")
