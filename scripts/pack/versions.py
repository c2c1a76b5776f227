"""Whether this machine has what the training needs; before anything long."""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

LEAST = {"torch": "2.11", "transformers": "5.17", "numpy": "1.26", "pillow": "11", "safetensors": "0.8"}
IMPORTS = ("versatile_diffusion", "diffusers", "einops", "jaxtyping", "typer", "rich", "tqdm", "accelerate")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in text.split("+")[0].split(".")[:2])


def main() -> None:
    """Ends with what is missing, if something is."""
    problems = [] if sys.version_info >= (3, 11) else [f"Python {sys.version.split()[0]}; 3.11 or newer is needed"]
    for name, least in LEAST.items():
        try:
            there = version(name)
        except PackageNotFoundError:
            problems.append(f"{name} is not installed; {least} or newer is needed")
            continue
        print(f"{name} {there}", file=sys.stderr)
        if numbers(there) < numbers(least):
            problems.append(f"{name} {there}; {least} or newer is needed")
    for name in IMPORTS if "--imports" in sys.argv else ():
        try:
            import_module(name)
        except ImportError as error:
            problems.append(f"{name} cannot be imported: {error}")
    if problems:
        sys.exit("error: " + "; ".join(problems))


if __name__ == "__main__":
    main()
