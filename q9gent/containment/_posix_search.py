"""A run's processes on a system that does not hold them: found, and killed, by the process table."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import psutil
import trio

from q9gent.containment.protocol import KILL_TIMEOUT_SECONDS, ContainmentLost, Death

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from q9gent.containment._posix_table import ProcessTable, Reading, Row

SCAN_SECONDS = 0.02
"""The pause between two readings while killing: each reads the whole process table."""

DOUBT_SECONDS = 1.0
"""For how long after somebody was last found a reading that missed somebody proves nothing. On a system that
starts short-lived processes all the time every reading may miss one, and most likely a stranger."""


class Search:
    """Looks for one run's processes.

    Args:
        table: Where everybody is read.
        pid: That of the run's first process, its leader, which leads a session and a group of its own.
        mark: What the run's processes carry in their environment.
    """

    def __init__(self, table: ProcessTable, pid: int, mark: str) -> None:
        self._table = table
        self._pid = pid
        self._mark = mark
        self._leader: psutil.Process | None = None
        with contextlib.suppress(psutil.Error, OSError):  # no descriptor: then by its pid alone
            self._leader = psutil.Process(pid)
        self._known: set[psutil.Process] = set()
        self._killed: set[psutil.Process] = set()

    async def look(self) -> None:
        """Remember who lives now: who is known is found again without its parents.

        Raises:
            OSError: The table cannot be read, as when the server is out of descriptors.

        Cancellation: nothing was remembered.
        """
        self._members(await self._table.read(trio.current_time()))

    def count(self) -> int:
        """Return how many live, as far as can be seen; as last seen, if the table cannot be read now."""
        with contextlib.suppress(OSError):
            self._members(self._table.read_at_once(trio.current_time() - SCAN_SECONDS))
        return len(self._known)

    async def kill(self, reap: Callable[[], int | None]) -> Death:
        """Kill until two readings in a row find nobody and have missed nobody. Bounded.

        Args:
            reap: Takes the leader's exit status and returns it, once it has one.

        Returns:
            How many were killed, and who could not be in time.

        Raises:
            ContainmentLost: The table could not be read for all that time.

        Cancellation: the killing is given up.
        """
        try:
            return await self._kill(reap)
        finally:
            self._table.watchers.discard(self._kill_at_sight)

    async def _kill(self, reap: Callable[[], int | None]) -> Death:
        clean_readings = 0
        since = found_at = trio.current_time()
        give_up_at = since + KILL_TIMEOUT_SECONDS
        while clean_readings < 2:
            is_last = trio.current_time() > give_up_at  # asked first: one reading can take seconds
            try:
                reading = await self._table.read(since)
                members = self._members(reading)
            except OSError:
                found = missed = True  # for all that can be said
                if reap() is None:
                    _kill_group(self._pid)
            else:
                self._killed |= _kill(members)
                found, missed = bool(members), reading.missed
            reap()
            since = trio.current_time()
            if found and is_last:
                if not self._known:
                    raise ContainmentLost("the process table cannot be read")
                pids = tuple(sorted(process.pid for process in self._known))
                return Death(killed=len(self._killed - self._known), survivors=pids)
            if found:
                found_at = since
                # Who lives on after this was forked meanwhile, and may be gone before a reading is done.
                self._table.watchers.add(self._kill_at_sight)
            is_clean = not found and (not missed or since > found_at + DOUBT_SECONDS)
            clean_readings = clean_readings + 1 if is_clean else 0
            await trio.sleep(SCAN_SECONDS)
        return Death(killed=len(self._killed))

    def _kill_at_sight(self, row: Row) -> None:
        if row.lives and self._is_ours(row):
            self._killed |= _kill([row])

    def _is_ours(self, row: Row) -> bool:
        """Tell whether the row alone says so."""
        if row.mark == self._mark or row.process in self._known:
            return True
        return self._pid in {row.session, row.group} and self._leads()

    def _leads(self) -> bool:
        """Tell whether the leader's pid is its own, or free.

        Nobody else gets it while the leader's session or group has members.

        Raises:
            OSError: That cannot be seen, as the server is out of descriptors.
        """
        try:
            return self._leader in {None, psutil.Process(self._pid)}
        except psutil.NoSuchProcess:
            return True

    def _members(self, reading: Reading) -> list[Row]:
        """Return those of a reading that live, and remember them: who is known stays known."""
        children: dict[int, list[Row]] = {}
        for row in reading.rows.values():
            children.setdefault(row.parent, []).append(row)
        found: dict[int, Row] = {}
        ours = [row for row in reading.rows.values() if self._is_ours(row)]
        while ours:
            row = ours.pop()
            if row.pid not in found:
                found[row.pid] = row
                ours += children.get(row.pid, [])
        living = [row for row in found.values() if row.lives]
        self._known = {row.process for row in living}
        return living


def _kill(members: Iterable[Row]) -> set[psutil.Process]:
    """Kill them, whole groups first: one by one, those that keep forking are always ahead of us.

    Nobody else can be in such a group: groups keep to a session, and the run's processes share none with
    others, as the leader began with one of its own.

    Returns:
        Those that were there to be killed, alone or with their group.
    """
    groups: dict[int, list[psutil.Process]] = {}
    for row in members:
        groups.setdefault(row.group, []).append(row.process)
    killed: set[psutil.Process] = set()
    for group, processes in groups.items():
        # Since they were read the group may have ended, and its number be another's.
        if any(_is_in(group, process) for process in processes) and _kill_group(group):
            killed.update(processes)
        for process in processes:
            with contextlib.suppress(psutil.Error, OSError):  # gone already, perhaps with its group
                process.kill()
                killed.add(process)
    return killed


def _is_in(group: int, process: psutil.Process) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.is_running()
    except OSError:
        return False


def _kill_group(group: int) -> bool:
    if group <= 1 or group == os.getpgrp():  # 0 is our own, 1 is everybody: neither is a run's
        return False
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)
        return True
    return False
