"""Compiles the agent and the client of the measurements.

Both are C: an agent that starts in half a millisecond, and a client that takes little of the machine that
it shares with the servers. A scripted stand-in would measure itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess

COMPILERS = ("cc", "gcc", "clang")
COMPILE_SECONDS = 60
SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "native")


def build(name: str, folder: str) -> str:
    """Compile a program into a folder.

    Args:
        name: Its source's name in ``native``, without the ending.
        folder: Where the program goes.

    Returns:
        The program's path.

    Raises:
        SystemExit: There is no compiler, or it fails.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise SystemExit(f"the benchmarks need a C compiler ({', '.join(COMPILERS)})")
    program = os.path.join(os.path.realpath(folder), name)
    source = os.path.join(SOURCES, f"{name}.c")
    subprocess.run([compiler, "-O2", "-o", program, source], check=True, timeout=COMPILE_SECONDS)
    return program
