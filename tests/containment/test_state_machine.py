"""Any calls in any order, against a model of what a server must say: which runs live, which sessions are.

The model is simple because the server's promises are: a run is live until it was ended, from then on its
session is free, its stream has one terminal event, and nothing of it is alive.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from callers import Caller, desk_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from process_scan import GONE_SECONDS, wait_for
from server_process import LiveServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

EXAMPLES, STEPS = 25, 20
PROMPT = "!child daemon\n!child setsid\n!wait"
NOWHERE = "00000000-0000-4000-8000-000000000000"
CHOICE = st.integers(min_value=0, max_value=1000)


@dataclass
class Live:
    """A run that waits, by the model."""

    caller: Caller
    run_id: str
    pid: int
    session: str | None


class Model(RuleBasedStateMachine):
    """A client that keeps account."""

    server: LiveServer

    def __init__(self) -> None:
        super().__init__()
        self.desk = desk_of(self.server)
        self.live: list[Live] = []
        self.ended: list[str] = []
        self.sessions: list[str] = []
        self.foreign = {one["session_id"] for one in self._listed()}  # of the examples before

    # Begin something.

    @rule(create_session=st.booleans())
    def spawn(self, create_session: bool) -> None:
        """A run that waits."""
        self._begin(self.desk.spawn(PROMPT, create_session=create_session), created=create_session)

    @rule(create_session=st.booleans(), status=st.sampled_from([0, 3]))
    def spawn_and_exit(self, create_session: bool, status: int) -> None:
        """A run that exits by itself."""
        with self.desk.spawn(f"!child daemon\n!exit {status}", create_session=create_session) as caller:
            if create_session:
                self.sessions.append(self._created(caller))
            self.ended.append(self.desk.run_id(caller))
            self._assert_exit(caller.last(), status)

    @precondition(lambda self: self.sessions)
    @rule(which=CHOICE, create_session=st.booleans())
    def message(self, which: int, create_session: bool) -> None:
        """A session's next turn, or a fork of it, which waits."""
        session = self.sessions[which % len(self.sessions)]
        if create_session:  # forks read the old session only, so it may be busy
            caller = self.desk.spawn(PROMPT, create_session=True, resume_id=session)
            self._begin(caller, created=True)
            return
        caller = self.desk.message(session, PROMPT)
        if self._is_busy(session):
            with caller:
                assert caller.answer()[0] == 409
        else:
            self._begin(caller, session=session)

    @precondition(lambda self: self.sessions)
    @rule(which=CHOICE)
    def message_and_exit(self, which: int) -> None:
        """A session's next turn, which exits by itself."""
        session = self.sessions[which % len(self.sessions)]
        with self.desk.message(session, "!exit 0") as caller:
            if self._is_busy(session):
                assert caller.answer()[0] == 409
            else:
                self.ended.append(self.desk.run_id(caller))
                self._assert_exit(caller.last(), 0)

    @rule()
    def message_to_nobody(self) -> None:
        """A turn of a session that there is not."""
        with self.desk.message(NOWHERE, PROMPT) as caller:
            assert caller.answer()[0] == 404

    # End something.

    @precondition(lambda self: self.live)
    @rule(which=CHOICE, by_session=st.booleans())
    def terminate(self, which: int, by_session: bool) -> None:
        """End a run by either of its ids."""
        live = self._take(which)
        status, told = self.desk.terminate((by_session and live.session) or live.run_id)
        self._assert_dead(live)
        assert status == 200
        assert (told["run_id"], told["session_id"]) == (live.run_id, live.session)
        assert live.caller.last()["code"] == "terminated"
        live.caller.leave()

    @precondition(lambda self: self.ended)
    @rule(which=CHOICE)
    def terminate_ended(self, which: int) -> None:
        """Nothing is left to end."""
        assert self.desk.terminate(self.ended[which % len(self.ended)])[0] == 404

    @precondition(lambda self: self.sessions)
    @rule(which=CHOICE)
    def terminate_idle_session(self, which: int) -> None:
        """A session without a live run has none to end."""
        session = self.sessions[which % len(self.sessions)]
        if not self._is_busy(session):
            assert self.desk.terminate(session)[0] == 404

    @precondition(lambda self: self.live)
    @rule(which=CHOICE, how=st.sampled_from(["leave", "reset", "half_close"]))
    def disconnect(self, which: int, how: str) -> None:
        """The client goes, and with it the run."""
        live = self._take(which)
        getattr(live.caller, how)()
        gone = wait_for(lambda: live.run_id not in self._running(), lambda is_gone: is_gone, GONE_SECONDS)
        assert gone
        self._assert_dead(live)
        live.caller.leave()

    @precondition(lambda self: self.live)
    @rule(which=CHOICE, number=st.sampled_from([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]))
    def let_exit(self, which: int, number: signal.Signals) -> None:
        """A run exits: well, with a status of its own, or by a signal."""
        live = self._take(which)
        os.kill(live.pid, number)
        last = live.caller.last()
        self._assert_dead(live)
        if number == signal.SIGKILL:
            assert (last["code"], last["signal"]) == ("signal", 9)
        else:
            self._assert_exit(last, 0 if number == signal.SIGINT else 143)
        live.caller.leave()

    @precondition(lambda self: self.sessions)
    @rule(which=CHOICE)
    def delete(self, which: int) -> None:
        """A session is forgotten, but not while it has a live run."""
        session = self.sessions[which % len(self.sessions)]
        with self.desk.asking("DELETE", f"/sessions/{session}") as caller:
            status = caller.answer()[0]
        if self._is_busy(session):
            assert status == 409
        else:
            assert status == 200
            self.sessions.remove(session)

    # What must hold at any time.

    @invariant()
    def sessions_are_listed(self) -> None:
        """The sessions are the model's."""
        assert {one["session_id"] for one in self._listed()} - self.foreign == set(self.sessions)

    @invariant()
    def runs_are_listed(self) -> None:
        """The live runs are the model's, each with all of its processes."""
        wanted = {live.run_id: (live.session, live.pid, 3) for live in self.live}
        assert {
            run["run_id"]: (run["session_id"], run["pid"], run["processes"]) for run in self._runs()
        } == wanted

    def teardown(self) -> None:
        """All clients go: nothing is left."""
        for live in self.live:
            live.caller.leave()
        self.desk.assert_no_agents()
        self.desk.assert_no_runs()

    def _begin(self, caller: Caller, *, created: bool = False, session: str | None = None) -> None:
        if created:
            session = self._created(caller)
            self.sessions.append(session)
        pid = caller.until("waiting")["pid"]
        self.live.append(Live(caller, self.desk.run_id(caller), pid, session))

    def _created(self, caller: Caller) -> str:
        first = next(caller.events())
        assert first["type"] == "session_created"
        assert str(uuid.UUID(first["session_id"])) == first["session_id"]
        return str(first["session_id"])

    def _take(self, which: int) -> Live:
        live = self.live.pop(which % len(self.live))
        self.ended.append(live.run_id)
        return live

    def _is_busy(self, session: str) -> bool:
        return any(live.session == session for live in self.live)

    def _assert_dead(self, live: Live) -> None:
        assert not os.path.exists(f"/proc/{live.pid}"), "the leader is dead and reaped"
        assert len(self.desk.agents()) == 3 * len(self.live)

    def _assert_exit(self, last: dict[str, Any], status: int) -> None:
        if status:
            assert (last["code"], last["exit_code"]) == ("exit", status)
        else:
            assert last["type"] == "completed"
        assert len(self.desk.agents()) == 3 * len(self.live)

    def _listed(self) -> list[dict[str, Any]]:
        return list(self.desk.get("/sessions")[1]["sessions"])

    def _runs(self) -> list[dict[str, Any]]:
        return list(self.desk.get("/runs")[1]["runs"])

    def _running(self) -> set[str]:
        return {run["run_id"] for run in self._runs()}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all examples."""
    server = LiveServer(str(tmp_path_factory.mktemp("model")), "--simulate")
    yield server
    server.close()


def test_any_calls_in_any_order(shared: LiveServer) -> None:
    """Whatever is called, in whatever order, the server says what the model says."""

    class Machine(Model):
        server = shared

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize="CI" in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
