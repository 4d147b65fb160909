"""Commands: one module for each, or for a few that share their options.

A module offers ``add(commands)``, which describes its commands to `argparse` and names the function that runs each:
``(options, console) -> exit code``. A new command is one new file and one entry here.
"""

from __future__ import annotations

from harness.commands import bench, build, calibrate, corrupt, doctor, gate, inspect, quantize, report, run

MODULES = (run, report, gate, corrupt, calibrate, quantize, build, inspect, bench, doctor)
