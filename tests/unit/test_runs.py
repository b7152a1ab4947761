"""The live runs, where what holds them fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio

from q9gent.containment.protocol import ContainmentLost
from q9gent.runs import Runs


class Tree:
    """A tree whose end is asked for."""

    def __init__(self, *, is_lost: bool) -> None:
        self.is_lost = is_lost
        self.graces: list[float] = []

    async def end(self, grace_seconds: float) -> None:
        await trio.lowlevel.checkpoint()
        self.graces.append(grace_seconds)
        if self.is_lost:
            raise ContainmentLost("both helpers were killed")


def test_a_lost_containment_keeps_no_other_run_from_being_killed() -> None:
    """Nor does it end the server's orderly stop: the run itself tells its client."""
    trees = [Tree(is_lost=True), Tree(is_lost=False), Tree(is_lost=True)]
    runs: Any = SimpleNamespace(live=lambda: [SimpleNamespace(tree=tree) for tree in [None, *trees]])
    trio.run(Runs.kill_now, runs)
    assert [tree.graces for tree in trees] == [[0], [0], [0]]
