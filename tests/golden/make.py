"""Makes the golden vectors afresh: `python tests/golden/make.py`. Only for a change of numerics that is meant."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests" / "data" / "golden" / "golden.safetensors"

if __name__ == "__main__":
    from safetensors.torch import load_file, save_file

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from tests.golden.models import build
    from tests.golden.parts import PARTS, libraries, moved, run

    before = load_file(FILE) if FILE.is_file() else {}
    stored: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        models = build(Path(folder))
        for name, part in PARTS.items():
            stored[name] = run(part, models, stored)
    for name, value in stored.items():
        if name not in before or moved(value, before[name]) > 0:
            print(f"{name}: {f'moved by {moved(value, before[name]):.1e}' if name in before else 'new'}")
    FILE.parent.mkdir(parents=True, exist_ok=True)
    save_file(stored, FILE, metadata=libraries())
    print(f"{FILE.relative_to(ROOT)}: {len(stored)} parts, {FILE.stat().st_size:,} bytes")
