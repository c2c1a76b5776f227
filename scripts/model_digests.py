"""Writes the digests of the shipped models into `shipped.py`, by which `versatile fetch` knows them.

python scripts/model_digests.py [--check]
"""

from __future__ import annotations

import re
from pathlib import Path

from generated import write_or_check

from versatile_diffusion import shipped

FILE = Path(shipped.__file__)
LINE = re.compile(r"(?m)^DIGESTS: Mapping\[str, str\] = .*$")


def text() -> str:
    """The module with the digests of what lies in `models/`."""
    assert shipped.CHECKOUT is not None, "this script belongs to a clone"
    folders = {name: next((shipped.CHECKOUT / name).glob(f"**/{shipped.INDEX}")).parent for name in shipped.OWN}
    entries = ", ".join(f'"{name}": "{shipped.digest_of(folder)}"' for name, folder in folders.items())
    return LINE.sub(f"DIGESTS: Mapping[str, str] = {{{entries}}}", FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    write_or_check(FILE, text, __doc__, "has old digests")
