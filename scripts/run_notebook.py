"""Runs the notebook from top to bottom, and stores what its cells show: texts, and images as small JPEG files.

    python scripts/run_notebook.py [NOTEBOOK]

It needs no Jupyter. `tests/examples/test_documents.py` compares the texts with those of a run.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "tour.ipynb"
QUALITY = 85


def executed(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook with the outputs of a run of all its code cells, in one room."""
    room: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in stored["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell = {**cell, "execution_count": count, "outputs": _outputs("".join(cell["source"]), count, room)}
        cells.append(cell)
    return {**stored, "cells": cells}


def _outputs(source: str, count: int, room: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a cell: what it prints, and the value of its last expression."""
    body, printed = ast.parse(source).body, io.StringIO()
    last, value = body.pop() if body and isinstance(body[-1], ast.Expr) else None, None
    with redirect_stdout(printed), redirect_stderr(io.StringIO()):
        # The cells are the project's own.
        exec(compile(ast.Module(body, []), f"cell {count}", "exec"), room)  # nosec B102
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), room)  # nosec B307
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None:
        shown = {"data": _data(value), "execution_count": count, "metadata": {}, "output_type": "execute_result"}
        outputs.append(shown)
    return outputs


def _data(value: Any) -> dict[str, Any]:
    if not isinstance(value, Image.Image):
        return {"text/plain": _lines(repr(value))}
    value.convert("RGB").save(buffer := io.BytesIO(), "JPEG", quality=QUALITY)
    text = f"<image of {value.width} x {value.height} pixels>"
    return {"image/jpeg": base64.b64encode(buffer.getvalue()).decode(), "text/plain": [text]}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def texts(stored: dict[str, Any]) -> list[list[str]]:
    """Return what each code cell shows as text."""
    return [
        [line for output in cell["outputs"] for line in output.get("text") or output["data"]["text/plain"]]
        for cell in stored["cells"]
        if cell["cell_type"] == "code"
    ]


def main(file: Path) -> None:
    stored = executed(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK)
