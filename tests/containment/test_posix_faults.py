"""The POSIX strategy where its scans fail it."""

from __future__ import annotations

import operator
import sys

import psutil
import pytest
from process_scan import everyone, wait_for
from stage import Stage, on_stage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the POSIX strategy")

STRATEGIES = ("posix",)


@on_stage
async def test_one_scan_that_finds_nobody_proves_nothing(stage: Stage) -> None:
    """A process that a scan has missed, as it was just being born, is found by the next."""
    async with stage.actor("!child daemon\n!wait") as actor:
        await actor.children(1)
        find, scans = actor.tree._find, 0  # type: ignore[attr-defined]

        def miss_once() -> list[psutil.Process]:
            nonlocal scans
            scans += 1
            return [] if scans == 1 else find()

        actor.tree._find = miss_once  # type: ignore[attr-defined]
        stage.assert_gone(actor, await actor.tree.end(0))
        assert scans >= 4


@on_stage
async def test_a_pid_that_has_a_new_bearer_is_no_hiding_place(stage: Stage) -> None:
    """What is remembered of the earlier one must not have scans pass over it."""
    async with stage.actor("!wait") as actor:
        await actor.waiting()
        earlier = psutil.Process(actor.tree.pid)
        earlier._ident = (actor.tree.pid, 1.0)  # type: ignore[attr-defined]
        earlier._create_time = 1.0  # type: ignore[attr-defined]
        psutil._pmap[actor.tree.pid] = earlier  # type: ignore[attr-defined]
        death = await actor.tree.end(0)
        stage.assert_gone(actor, death)
        assert death.killed == 1


@on_stage
async def test_what_is_gone_with_its_group_counts_as_killed(stage: Stage) -> None:
    """An orphan may be reaped by init before its own pid is killed."""
    async with stage.actor("!child plain\n!wait") as actor:
        await actor.children(1)
        kill_groups, members = actor.tree._kill_groups, actor.note()  # type: ignore[attr-defined]

        def kill_groups_and_see_them_reaped(pids: set[int]) -> set[int]:
            killed: set[int] = kill_groups(pids)
            orphans = {one.pid for one in members if one.pid != actor.tree.pid}
            wait_for(lambda: orphans & {one.pid for one in everyone()}, operator.not_, 2)
            return killed

        actor.tree._kill_groups = kill_groups_and_see_them_reaped  # type: ignore[attr-defined]
        death = await actor.tree.end(0)
        stage.assert_gone(actor, death)
        assert death.killed == len(members)
