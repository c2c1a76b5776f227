"""From an exception to an exit code and one line for people."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Mapping

INTERRUPTED = 130
EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "some of many inputs failed, or a check found something wrong",
    2: "a mistake in what was given; one line on stderr tells it",
    INTERRUPTED: "interrupted with Ctrl-C",
}
DEBUG = "VERSATILE_DEBUG"
"""Environment variable that shows the traceback as well."""

LONGEST = 300
PLAINER: Mapping[str, str] = {
    "Value error, ": "",
    "Input should be": "it must be",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    ", unable to parse string as an? [a-z]+": "",
}
"""What the parser says, and how people say it."""


def quiet_libraries() -> None:
    """Keep the advice that libraries give to programmers away from people who only run the command."""
    for variable in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"versatile_diffusion\.")  # ours are for everybody
    warnings.showwarning = _tell


def _tell(message: Warning | str, *_place: object, **_options: object) -> None:
    """A warning without its place in the code."""
    print(f"note: {message}", file=sys.stderr)


def exit_code(error: Exception) -> int:
    """Tells of an error in one line on stderr. What is no mistake of the user's is raised again."""
    if isinstance(error, BrokenPipeError):  # the program that read our output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if type(error).__name__ == "NoArgsIsHelpError":  # a verb that has others below it, called without one
        print(error.format_message())  # type: ignore[attr-defined]
        return 0
    message = _message(error)
    if message is None or os.environ.get(DEBUG):
        raise error
    print(f"error: {message}", file=sys.stderr)
    return 2


def one_line(error: BaseException) -> str:
    """An error's message in one line, its middle left out where it quotes much of the input."""
    message = " ".join(str(error).split()) or type(error).__name__
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
    return message


def _message(error: Exception) -> str | None:
    """What to tell people; None for what they can do nothing about."""
    if hasattr(error, "format_message"):  # errors of the command line's parser have it
        return _usage(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if type(error).__name__ == "OutOfMemoryError":
        return "the memory of the GPU is full; take a smaller --count, --height and --width, or --device cpu"
    if isinstance(error, OSError) and error.strerror:
        return one_line(ValueError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror))
    return one_line(error) if isinstance(error, ValueError | OSError) else None


def _usage(error: Exception) -> str:
    """A mistake in verbs, arguments or options: what was meant, and where to look."""
    message = error.format_message()  # type: ignore[attr-defined]
    if close := getattr(error, "possibilities", None):
        message = f"{error}. Did you mean {close[0]!r}?"
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "versatile"
    for pattern, plain in PLAINER.items():
        message = re.sub(pattern, plain, message)
    line = one_line(ValueError(message)).rstrip(".")
    return f"{line}{' ' if line.endswith('?') else '; '}`{path} --help` says what is allowed"


def _missing(error: ModuleNotFoundError) -> str | None:
    """Which extra brings a module that is missing; None if none does."""
    from versatile_diffusion.cli.extras import extra_of

    extra = extra_of(error.name or "")
    return f"{error.name} is not installed: pip install 'versatile-diffusion[{extra}]'" if extra else None
