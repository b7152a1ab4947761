"""What a run inherits of the server's: all but what is the server's own."""

from __future__ import annotations

import contextlib
import os
import sys

from q9gent.settings import ENVIRONMENT_PREFIX

if sys.platform != "win32":
    import resource

    STARTED_WITH = resource.getrlimit(resource.RLIMIT_NOFILE)
    """The descriptor limits that the server was started with."""


def agent_environment() -> dict[str, str]:
    """Return the environment for a run: the server's, less ``Q9GENT_*``."""
    return {
        name: value for name, value in os.environ.items() if not name.upper().startswith(ENVIRONMENT_PREFIX)
    }


OPEN_MAX = 10_240
"""What macOS calls so: no more can be asked for, though its hard limit may be infinite (setrlimit(2))."""


def raise_descriptor_limit() -> None:
    """Take as many descriptors as the system allows: a run needs four, the usual soft limit is 1,024.

    Runs should not see this (a program that uses ``select`` breaks on high descriptors): the Linux
    strategy starts them with ``STARTED_WITH``.
    """
    if sys.platform != "win32":
        soft, hard = STARTED_WITH
        for wanted in (hard, max(soft, OPEN_MAX)):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                return
