"""A q9gent server that also tells what it holds: for the soak alone.

Each line on standard input is answered by one line of JSON: trio's tasks, threads, descriptors, memory.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import threading

import trio

from q9gent.cli.options import settings_from_environment
from q9gent.http.app import create_app
from q9gent.http.serve import Server, Sockets, make_config
from q9gent.log import configure_logging


def holdings() -> dict[str, int]:
    """Return what this process holds now."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what the C library keeps for later is not what we hold
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    return {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "blocks": sys.getallocatedblocks(),
        "rss_kib": int(status["VmRSS"].split()[0]),
    }


async def answer() -> None:
    """Tell for every line that is read."""
    stdin = trio.lowlevel.FdStream(os.dup(0))
    while await stdin.receive_some(1024):
        print(json.dumps(holdings()), flush=True)


async def main() -> None:
    """Serve until standard input ends."""
    settings = settings_from_environment()
    config = make_config(settings)
    sockets = Sockets(config)
    server = Server(create_app(settings), config, sockets)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        print(sockets.urls[0].rpartition(":")[2], flush=True)
        await answer()
        server.stop()


if __name__ == "__main__":
    configure_logging("error", "json")
    trio.run(main)
    sys.exit(0)
