"""Map exceptions to exit codes and one-line messages."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from versatile_diffusion.printable import printable, shown

INTERRUPTED = 130
EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "some inputs failed, or a check found a problem",
    2: "invalid input; reported in one line on stderr",
    INTERRUPTED: "interrupted with Ctrl-C",
}
DEBUG = "VERSATILE_DEBUG"
"""Environment variable that enables tracebacks."""
LONGEST = 300
PLAINER: Mapping[str, str] = {
    "Value error, ": "",
    "Input should be": "it must be",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    ", unable to parse string as an? [a-z]+": "",
    r"(Did you mean '[^']*')(?:, '[^']*')+\?": r"\1?",  # the closest alone
}
"""Wording of the option parser, and its replacement."""


def quiet_libraries() -> None:
    """Silence developer warnings of libraries."""
    for variable in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"versatile_diffusion\.")  # our own warnings are for users
    warnings.showwarning = _tell


def _tell(message: Warning | str, *_place: object, **_options: object) -> None:
    """Print a warning without its code location."""
    print(f"note: {printable(str(message))}", file=sys.stderr)


def exit_code(error: Exception) -> int:
    """Report an error in one line on stderr and return its exit code; re-raise what is not a user error."""
    if isinstance(error, BrokenPipeError):  # the reader of our output, e.g. `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if type(error).__name__ == "NoArgsIsHelpError":  # a verb group called without a verb
        print(error.format_message())  # type: ignore[attr-defined]
        return 0
    message = _message(error)
    if message is None or os.environ.get(DEBUG):
        raise error
    print(f"error: {printable(message)}", file=sys.stderr)
    return 2


def one_line(error: BaseException) -> str:
    """Return the error's message in one line, shortened in the middle if very long."""
    message = " ".join(str(error).split()) or type(error).__name__
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
    return message


def _message(error: Exception) -> str | None:
    """Return the message for the user; None if it is not a user error."""
    if hasattr(error, "format_message"):  # raised by the option parser
        return _usage(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing_extra(error)
    if type(error).__name__ == "OutOfMemoryError":
        return "out of GPU memory; use a smaller --count, --height and --width, or --device cpu"
    if isinstance(error, OSError) and error.strerror:
        return one_line(ValueError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror))
    return one_line(error) if isinstance(error, ValueError | OSError) else None


def _usage(error: Exception) -> str:
    """Message for a wrong verb, argument or option: the closest match, and where to look."""
    message = error.format_message()  # type: ignore[attr-defined]
    if close := getattr(error, "possibilities", None):
        message = f"{error}. Did you mean {shown(close[0])}?"
    context = getattr(error, "ctx", None)
    message = _meant(error, context) or message
    path = context.command_path if context else "versatile"
    for pattern, plain in PLAINER.items():
        message = re.sub(pattern, plain, message)
    line = one_line(ValueError(message)).rstrip(".")
    return f"{line}{' ' if line.endswith('?') else '; '}`{path} --help` lists what is allowed"


def _meant(error: Exception, context: Any) -> str | None:
    """A mistake with what was meant, where words of other programs say so."""
    from versatile_diffusion.cli.io.guesses import NO_COMMAND, of_option, of_verb

    if (option := getattr(error, "option_name", None)) is not None and type(error).__name__ == "NoSuchOption":
        taken = getattr(getattr(context, "command", None), "params", ())
        words = " and ".join(one.metavar or one.name for one in taken if one.param_type_name == "argument")
        said = of_option(option, getattr(context, "info_name", None), words)
        return None if said is None else f"No such option: {option}. {said}"
    missing = NO_COMMAND.match(str(error))
    verb = None if missing is None or context is None or context.parent is not None else of_verb(missing[1])
    return (
        None if missing is None or verb is None else f"No such command {shown(missing[1])}. Did you mean {shown(verb)}?"
    )


def _missing_extra(error: ModuleNotFoundError) -> str | None:
    """Message naming the extra that installs a missing module; None if there is none."""
    from versatile_diffusion.cli.io.extras import extra_of

    extra = extra_of(error.name or "")
    return f"{error.name} is not installed: pip install 'versatile-diffusion[{extra}]'" if extra else None
