"""The command line. Exit codes: 0 good, 1 a verdict failed, 2 the user can mend it, 3 a bug."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from rich.console import Console

from harness.shadow import check_one_home

shadowed = check_one_home()
if shadowed:
    sys.exit(f"error: {shadowed}")

from engines.artifact import ArtifactError
from engines.base import EngineError
from exporters.base import ExportError
from harness.commands import MODULES
from harness.commands.options import Command
from harness.errors import HarnessError
from harness.store import FULL, is_full
from noise.base import NoiseError

USER_ERROR, BUG, INTERRUPTED, PIPE_CLOSED = 2, 3, 130, 141
USER_ERRORS = (HarnessError, ArtifactError, EngineError, ExportError, NoiseError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        command: Command = options.command
        code = command(options, console)
        sys.stdout.flush()  # here, where a reader that is gone is known, and not when Python ends
        return code
    except KeyboardInterrupt:
        kept = "everything measured is kept, and the same command continues"
        print(f"interrupted; {kept if options.resumes else 'the same command begins again'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone. Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the last door: a bug is shown whole and has its own exit code
        message = _user_message(error)
        if message is None:
            traceback.print_exc()
            print("this is a bug in qharness; please report it with the lines above", file=sys.stderr)
            return BUG
        print(f"error: {message}", file=sys.stderr)
        return USER_ERROR


def _user_message(error: Exception) -> str | None:
    """What to tell the user about an error that they can mend; ``None`` for a bug."""
    if isinstance(error, USER_ERRORS):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        reason = FULL if is_full(error) else str(error.strerror)
        return f"{reason}: {error.filename}" if error.filename else reason
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qharness",
        description="Does the quantised engine that you are about to ship still see through real-world noise?",
    )
    parser.set_defaults(resumes=False)  # a command whose work survives an interruption says so
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in MODULES:
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
