"""The process table, as the POSIX strategy reads it: one reading serves every run that asks.

A reading is no snapshot: processes are born and die while it is made. So the newest are read first, the
list is taken again until nobody is new, and it tells whether somebody was gone before being read, who may
have belonged to anybody.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

MARK = "Q9_RUN_MARK"
"""The environment variable by which reparented descendants are known. It is all that is added to what a
run inherits, and only by this strategy."""

ROUNDS = 4
"""How often the list is taken for one reading: each round reads who is new, and on a system that never
stops starting processes there is always somebody."""

PAUSE_PIDS = 100
"""After how many others get their turn: a fork storm leaves thousands of zombies, which take seconds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One process, as it was read. Session and group are 0 where the system does not tell them."""

    process: psutil.Process
    parent: int
    session: int
    group: int
    mark: str | None
    lives: bool

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.process.pid


@dataclass(frozen=True, slots=True)
class Reading:
    """The processes of the system.

    Attributes:
        rows: Each that could be read, by its pid.
        missed: Whether somebody who is not in the reading before was gone before being read.
    """

    rows: dict[int, Row]
    missed: bool


class ProcessTable:
    """Reads the processes of the system, for all runs together."""

    def __init__(self) -> None:
        self._latest = Reading({}, missed=False)
        self._begun = float("-inf")
        self._lock = trio.Lock()
        self.watchers: set[Callable[[Row], object]] = set()
        """Each is called with every row of a reading in the moment in which it is read."""

    async def read(self, since: float) -> Reading:
        """Return a reading that was begun at ``since`` or later: the latest, if that will do.

        Args:
            since: A moment, by trio's clock.

        Raises:
            OSError: The table cannot be read, as when the server is out of descriptors.

        Cancellation: what was read so far is dropped.
        """
        async with self._lock:
            if self._begun < since:
                begun = trio.current_time()
                for reading in _read(self._latest, self.watchers):
                    if reading is None:
                        await trio.lowlevel.checkpoint()
                    else:
                        self._latest, self._begun = reading, begun
        return self._latest

    def read_at_once(self, since: float) -> Reading:
        """Return what ``read`` does, without giving way to other tasks.

        Raises:
            OSError: See ``read``.
        """
        if self._begun < since:
            begun = trio.current_time()
            for reading in _read(self._latest, self.watchers):
                if reading is not None:
                    self._latest, self._begun = reading, begun
        return self._latest


def _read(before: Reading, watchers: Collection[Callable[[Row], object]]) -> Iterator[Reading | None]:
    """Yield None wherever one may pause, and the reading at the end."""
    rows: dict[int, Row] = {}
    seen = {0}  # the kernel's own, where there is such a process; asked for 0, getsid tells of ourselves
    missed = False
    for _ in range(ROUNDS):
        # Not process_iter, which passes over a pid that has a new bearer, twice in a row.
        new = sorted(set(psutil.pids()).difference(seen), reverse=True)
        if not new:
            break
        seen.update(new)
        for count, pid in enumerate(new, 1):
            try:
                row = rows[pid] = _row(pid)
                for watch in tuple(watchers):
                    watch(row)
            except psutil.ZombieProcess:
                continue  # dead, and nothing else can be read of it (macOS, the BSDs)
            except psutil.NoSuchProcess:
                missed = missed or pid not in before.rows
            except psutil.AccessDenied:
                continue  # somebody else's
            if count % PAUSE_PIDS == 0:
                yield None
    yield Reading(rows, missed=missed)


def _row(pid: int) -> Row:
    process = psutil.Process(pid)
    with process.oneshot():
        parent, lives = process.ppid(), _lives(process)
    if not lives:  # no more of it counts, and where nobody reaps there are thousands
        return Row(process, parent, 0, 0, None, lives)
    session = group = 0
    try:
        session, group = os.getsid(pid), os.getpgid(pid)
    except ProcessLookupError:
        raise psutil.NoSuchProcess(pid) from None
    except OSError:
        pass  # OpenBSD tells nobody the session of a process in another one
    try:
        mark = process.environ().get(MARK)
    except psutil.AccessDenied:
        mark = None
    except psutil.NoSuchProcess:  # kernel threads say so, too, and a process without its main thread
        if not _lives(process):
            raise psutil.NoSuchProcess(pid) from None
        mark = None
    return Row(process, parent, session, group, mark, lives)


def _lives(process: psutil.Process) -> bool:
    # With threads, a zombie's main one alone has ended (Linux): the others go on.
    return bool(process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
