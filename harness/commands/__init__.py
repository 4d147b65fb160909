"""Commands: one module for each, or for a few that share their options.

A module offers ``add(commands)``, which describes its commands to `argparse` and names the function that runs each:
``(options, console) -> exit code``. A new command is one new file and one entry here.
"""

from __future__ import annotations

from harness.commands import (
    attack,
    bench,
    build,
    calibrate,
    corrupt,
    doctor,
    export,
    gate,
    inspect,
    mismatch,
    quantize,
    report,
    rewrite,
    run,
    train,
)

MODULES = (
    run,
    mismatch,
    attack,
    report,
    gate,
    corrupt,
    export,
    calibrate,
    quantize,
    train,
    rewrite,
    build,
    inspect,
    bench,
    doctor,
)
