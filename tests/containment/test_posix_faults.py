"""The POSIX strategy where its scans fail it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from stage import Stage, on_stage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the POSIX strategy")

if TYPE_CHECKING:
    import psutil

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
