"""The simulated agent does what the CLI does, and what a prompt's directives say: real processes.

The lines are read through a thread and a queue, so that every wait has a deadline on every system. A
descendant is announced only once it is in its final state, so its state is asserted without waiting.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from q9gent import simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals, sessions and forks are POSIX")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

DEADLINE = 30.0
PROGRAM = [sys.executable, "-I", "-S", simulator.__file__]
PARENT = "import subprocess, sys; subprocess.run(sys.argv[1:])"


class Agent:
    """A running simulator."""

    def __init__(self, command: list[str], folder: str, stdin: bytes | None, more: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"CLAUDE_CONFIG_DIR": folder} | more,
        )
        self.session = ""
        self.children: list[psutil.Process] = []
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._errors: queue.Queue[bytes] = queue.Queue()
        pumps = [(self.process.stdout, self._lines), (self.process.stderr, self._errors)]
        self._threads = [threading.Thread(target=self._pump, args=pump, daemon=True) for pump in pumps]
        for thread in self._threads:
            thread.start()
        if stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(stdin)
            self.process.stdin.close()

    def _pump(self, pipe: Any, lines: queue.Queue[bytes]) -> None:
        with pipe:
            for line in pipe:
                lines.put(line)
        lines.put(b"")

    def raw(self) -> bytes:
        """The next line of stdout as it came; ``b""`` at the end."""
        line = self._lines.get(timeout=DEADLINE)
        if b'"session_id":' in line:
            event = json.loads(line)
            self.session = event["session_id"]
            if event.get("subtype") == "child":
                self.keep(event["pid"])
        return line

    def keep(self, pid: int) -> None:
        """Have a process killed at the end: this one, and not who gets its pid after it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.children.append(psutil.Process(pid))

    def line(self, **expected: object) -> dict[str, Any]:
        """The next line of stdout, which has the fields expected."""
        event: dict[str, Any] = json.loads(self.raw())
        assert {key: event.get(key) for key in expected} == expected
        return event

    def init(self) -> dict[str, Any]:
        return self.line(type="system", subtype="init")

    def rest(self) -> bytes:
        """What is left of stdout."""
        return b"".join(iter(self.raw, b""))

    def errors(self) -> bytes:
        """All of stderr."""
        return b"".join(iter(lambda: self._errors.get(timeout=DEADLINE), b""))

    def exit(self) -> int:
        return self.process.wait(DEADLINE)

    def family(self) -> list[psutil.Process]:
        """Every process that names this session on its command line."""
        processes = psutil.process_iter(["cmdline"])
        return [one for one in processes if self.session and self.session in (one.info["cmdline"] or ())]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        for child in self.children:
            end(child)
        deadline = time.monotonic() + DEADLINE
        while family := self.family():  # more than once: a storm moves on while it is looked at
            assert time.monotonic() < deadline, family
            for process in family:
                end(process)
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "somebody still holds the pipe"


def end(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Agent]]:
    """Start simulators on a history of the test's own; afterwards all that they started is killed."""
    agents: list[Agent] = []

    def start(*prompt: str, options=(), under=(), stdin=None, environment=None) -> Agent:
        words = ["-p", *filter(None, ["\n".join(prompt)]), *options]
        agent = Agent([*under, *PROGRAM, *words], str(tmp_path), stdin, environment or {})
        agents.append(agent)
        return agent

    yield start
    for agent in agents:
        agent.close()


def started_child(start: Callable[..., Agent], mode: str) -> psutil.Process:
    """The one descendant of a simulator that waits."""
    agent = start(f"!child {mode}", "!wait")
    agent.init()
    event = agent.line(type="system", subtype="child", mode=mode.split(maxsplit=1)[0])
    return psutil.Process(event["pid"])


def new_id() -> str:
    return str(uuid.uuid4())


# What the CLI does


def test_a_turn_is_three_lines(start):
    """A short turn is an init, an assistant and a result line, then exit status 0."""
    agent = start("hello")
    init = agent.init()
    said = agent.line(type="assistant")["message"]["content"]
    result = agent.line(type="result", subtype="success", is_error=False, num_turns=1, total_cost_usd=0)
    assert (agent.rest(), agent.exit(), agent.errors()) == (b"", 0, b"")
    assert said == [{"type": "text", "text": result["result"]}]
    assert result["result"] == "This is q9gent's simulated agent. You said: hello"
    assert result["session_id"] == init["session_id"] == str(uuid.UUID(init["session_id"]))
    assert isinstance(result["duration_ms"], int)


def test_init_tells_the_tools_and_the_model(start):
    """The init line tells what the options say."""
    agent = start("hello", options=["--allowedTools=Read,Bash", "--model", "opus", "--new-option"])
    init = agent.line(type="system", tools=["Read", "Bash"], model="opus")
    assert os.path.samefile(init["cwd"], os.getcwd())
    assert agent.line(type="assistant")["message"]["model"] == "opus"


def test_allowed_tools_is_variadic(start):
    """The spaced form of --allowedTools takes every word up to the next option."""
    agent = start("hello", options=["--allowedTools", "Read", "Bash,Edit", "--verbose"])
    agent.line(tools=["Read", "Bash", "Edit"])


def test_the_prompt_comes_from_stdin_without_a_positional(start):
    """A large prompt on stdin arrives whole."""
    text = "ü" * 300_000
    agent = start(options=["--output-format", "stream-json"], stdin=text.encode())
    agent.init()
    assert agent.line(type="assistant")["message"]["content"][0]["text"].endswith(f"You said: {text}")


def test_no_prompt_is_an_error(start):
    """Without any prompt there is a message on stderr only."""
    agent = start(stdin=b"")
    assert (agent.rest(), agent.exit()) == (b"", 1)
    assert b"prompt" in agent.errors()


def test_a_prompt_after_two_dashes_may_look_like_an_option(start):
    """What follows ``--`` is the prompt."""
    agent = start(options=["--", "--version"])
    agent.init()
    assert agent.line(type="assistant")["message"]["content"][0]["text"].endswith("You said: --version")


def test_an_option_in_the_prompts_place_is_an_option(start):
    """A prompt that is --version prints the version, as with the CLI."""
    agent = start("--version")
    assert (agent.rest().rstrip(), agent.exit()) == (b"2.1.330 (simulated)", 0)


def test_text_that_json_must_escape_survives(start):
    """Quotes, control characters, backslashes and other alphabets are what they were."""
    text = 'q" b\\ t\t \x01 \x7f \u2028 é 漢 🙂'
    agent = start(stdin=text.encode())
    agent.init()
    assert agent.line(type="assistant")["message"]["content"][0]["text"].endswith(f"You said: {text}")


def test_a_session_id_is_used(start):
    """Every line carries the id of --session-id, in both of its forms."""
    for form in (lambda new: [f"--session-id={new}"], lambda new: ["--session-id", new]):
        session = new_id()
        agent = start("hello", options=form(session))
        for _ in range(3):
            agent.line(session_id=session)


def test_a_resumed_turn_knows_what_was_asked(start):
    """A resumed turn has the same id and says what it was asked before."""
    session = new_id()
    start("first", options=[f"--session-id={session}"]).exit()
    start("second", options=[f"--resume={session}"]).exit()
    agent = start("third", options=["--resume", session])
    agent.line(subtype="init", session_id=session)
    said = agent.line(type="assistant")["message"]["content"][0]["text"]
    assert said.endswith("You asked me before: first / second. You said: third")


def test_a_fork_leaves_the_old_session_alone(start):
    """A fork knows the old history under its new id, and the old session learns nothing."""
    old, new = new_id(), new_id()
    start("first", options=[f"--session-id={old}"]).exit()
    fork = start("second", options=[f"--resume={old}", "--fork-session", f"--session-id={new}"])
    fork.line(session_id=new)
    assert b"asked me before: first." in fork.rest()
    assert b"asked me before: first." in start("third", options=[f"--resume={old}"]).rest()
    assert b"asked me before: first / second." in start("fourth", options=[f"--resume={new}"]).rest()


@pytest.mark.parametrize("ending", [pytest.param("!wait", id="killed"), pytest.param("!exit 3", id="failed")])
def test_a_turn_that_was_cut_short_can_be_resumed(start, ending):
    """The prompt is remembered before anything is done."""
    session = new_id()
    agent = start("first", ending, options=[f"--session-id={session}"])
    agent.init()
    agent.process.kill()
    agent.exit()
    assert b"asked me before: first" in start("second", options=[f"--resume={session}"]).rest()


def test_a_session_id_in_use_is_refused(start):
    """--session-id of a known session gives a message on stderr only."""
    session = new_id()
    start("first", options=[f"--session-id={session}"]).exit()
    agent = start("second", options=[f"--session-id={session}"])
    assert (agent.rest(), agent.exit()) == (b"", 1)
    assert b"already in use" in agent.errors()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--session-id=../../etc/passwd"], id="new"),
        pytest.param(["--resume=/tmp/transcript.jsonl"], id="resumed"),
        pytest.param([f"--resume={new_id()}", f"--session-id={new_id()}"], id="both without a fork"),
    ],
)
def test_ids_that_make_no_sense_are_refused(start, options):
    """An id that is no UUID, or two ids and no fork, give a message on stderr only."""
    agent = start("hello", options=options)
    assert (agent.rest(), agent.exit()) == (b"", 1)
    assert agent.errors().startswith(b"Error: ")


def test_resuming_an_unknown_session_is_told_on_stdout(start):
    """There is a plain line of text, then a result line with is_error."""
    session = new_id()
    agent = start("hello", options=[f"--resume={session}"])
    assert agent.raw().rstrip() == f"No conversation found with session ID: {session}".encode()
    agent.line(type="result", is_error=True)
    assert (agent.rest(), agent.exit()) == (b"", 1)


@posix_only
def test_the_default_history_is_for_this_user_alone(start, tmp_path):
    """Without CLAUDE_CONFIG_DIR the history is a private folder in the temporary one."""
    start("hello", environment={"CLAUDE_CONFIG_DIR": "", "TMPDIR": str(tmp_path)}).exit()
    folder = tmp_path / f"q9gent-simulator-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(list(folder.glob("*.json"))) == 1


@posix_only
def test_sigterm_ends_it_without_a_result(start):
    """Like the CLI, it exits by itself with 143."""
    agent = start("!wait")
    agent.init()
    agent.line(subtype="waiting", pid=agent.process.pid)
    agent.process.terminate()
    assert (agent.rest(), agent.exit(), agent.errors()) == (b"", 143, b"")


@posix_only
def test_sigint_ends_it_with_success(start):
    """Like the CLI, it exits with 0 and no result."""
    agent = start("!wait")
    agent.init()
    agent.line(subtype="waiting")
    agent.process.send_signal(signal.SIGINT)
    assert (agent.rest(), agent.exit()) == (b"", 0)


def test_it_goes_on_when_nobody_reads(tmp_path):
    """A closed stdout does not stop the run."""
    with subprocess.Popen(
        [*PROGRAM, "-p", "!lines 100000 100\n!exit 7"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | {"CLAUDE_CONFIG_DIR": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(DEADLINE) == 7


# What the directives do


def test_directives_come_before_the_answer(start):
    """Directives are obeyed in order, then what else was said is answered."""
    agent = start("one", "!say two", "three", "!say four")
    agent.init()
    texts = [agent.line(type="assistant")["message"]["content"][0]["text"] for _ in range(3)]
    assert texts == ["two", "four", "This is q9gent's simulated agent. You said: one\nthree"]
    agent.line(type="result", result=texts[-1])


def test_directives_alone_are_not_answered(start):
    """A prompt of directives has the last text said for its result."""
    agent = start("!say two words ")
    agent.init()
    agent.line(type="assistant")
    agent.line(type="result", result="two words ")


@pytest.mark.parametrize(
    "wrong", ["!frobnicate", "!lines 1", "!lines 1 10", "!exit", "!child spoon 2", "!hex x"]
)
def test_a_wrong_directive_is_status_2(start, wrong):
    """A directive that cannot be obeyed is named on stderr, and ends the run without a result."""
    agent = start(wrong)
    agent.init()
    assert (agent.rest(), agent.exit()) == (b"", 2)
    assert wrong.encode() in agent.errors()


def test_hex_is_written_as_it_is(start):
    """The bytes of !hex are neither encoded nor ended."""
    agent = start("!hex 00 ff fe 0d 0a", "!no-result")
    agent.init()
    assert agent.rest() == b"\x00\xff\xfe\r\n"


@pytest.mark.parametrize(("count", "size"), [(1, 40), (1000, 100), (40, 100_000), (3, 2_000_000), (0, 100)])
def test_lines_have_the_size_asked_for(start, count, size):
    """Each line of a burst is JSON of the exact size, numbered from 1."""
    agent = start(f"!lines {count} {size}", "!no-result")
    agent.init()
    burst = agent.rest().splitlines(keepends=True)
    assert {len(line) for line in burst} == ({size} if count else set())
    assert [json.loads(line)["n"] for line in burst] == list(range(1, count + 1))


def test_ticks_are_numbered_and_timed(start):
    """Ticks are spaced by the time asked for, which their time stamps show."""
    agent = start("!tick 3 0.05")
    agent.init()
    ticks = [agent.line(subtype="tick", n=n) for n in (1, 2, 3)]
    assert all(b["monotonic"] - a["monotonic"] >= 0.04 for a, b in itertools.pairwise(ticks))
    agent.line(type="result")


def test_big_is_one_line_of_that_size(start):
    """A line of several MiB has the exact size and is JSON."""
    agent = start("!big 3000000")
    agent.init()
    line = agent.raw()
    assert len(line) == 3_000_000
    assert json.loads(line)["type"] == "big"


def test_stderr_is_written(start):
    """Text and floods go to stderr, in the sizes asked for."""
    agent = start("!stderr some text", "!stderr-flood 300000")
    text, _, flood = agent.errors().replace(b"\r", b"").partition(b"\n")
    assert (text, len(flood)) == (b"some text", 300_000)


def test_sleep_takes_its_time(start):
    """The turn's duration shows the sleep."""
    agent = start("!sleep 0.05")
    agent.init()
    assert agent.line(type="result")["duration_ms"] >= 40


def test_exit_leaves_at_once(start):
    """!exit gives its status; what was said before it is out, and there is no result."""
    agent = start("!say hello", "!exit 42", "!say never")
    agent.init()
    agent.line(type="assistant")
    assert (agent.rest(), agent.exit()) == (b"", 42)


@posix_only
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1"])
def test_signal_is_what_ends_it(start, name):
    """The process dies of the signal, handled or not."""
    number = int(getattr(signal, name))
    agent = start(f"!signal {number}")
    agent.init()
    assert (agent.rest(), agent.exit()) == (b"", -number)


def test_no_result_leaves_the_result_out(start):
    """A run without a result line still exits with 0."""
    agent = start("!no-result", "hello")
    agent.init()
    agent.line(type="assistant")
    assert (agent.rest(), agent.exit()) == (b"", 0)


def test_no_newline_ends_in_the_result(start):
    """The last line is a result without its newline."""
    agent = start("!no-newline")
    agent.init()
    last = agent.raw()
    assert json.loads(last)["type"] == "result"
    assert last.endswith(b"}")


@posix_only
def test_ignore_term_survives_what_asks_it_to_end(start):
    """SIGTERM, SIGINT and SIGHUP change nothing; SIGVTALRM, delivered after them, is what ends it."""
    agent = start("!ignore-term", "!wait")
    agent.init()
    agent.line(subtype="waiting")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        agent.process.send_signal(number)
    agent.process.send_signal(signal.SIGVTALRM)
    assert agent.exit() == -signal.SIGVTALRM


def test_close_stdout_ends_the_stream_but_not_the_run(start):
    """The reader sees the end of file while the process runs on."""
    agent = start("!close-stdout", "!stderr still here", "!wait")
    agent.init()
    assert agent.rest() == b""
    assert agent._errors.get(timeout=DEADLINE).rstrip() == b"still here"
    assert agent.process.poll() is None


@linux_only
def test_report_tells_what_the_process_was_given(start):
    """A report shows arguments, folder, environment, descriptors, ids and signal masks."""
    agent = start("!report", options=["--verbose"], environment={"A_MARK": "é"})
    agent.init()
    report = agent.line(subtype="report", cwd=os.getcwd(), stdin_null=True, pid=agent.process.pid)
    assert report["argv"][1:] == ["-p", "!report", "--verbose"]
    assert report["env"]["A_MARK"] == "é"
    assert (report["ppid"], report["sid"], report["pgid"]) == (os.getpid(), os.getsid(0), os.getpgid(0))
    fds = dict(report["fds"])
    assert fds[0] == os.devnull
    assert fds[1].startswith("pipe:")
    assert report["blocked_signals"] == []
    assert signal.SIGTERM not in report["ignored_signals"]


def test_report_tells_a_stdin_that_is_not_null(start):
    """A pipe is not taken for the null device."""
    agent = start(stdin=b"!report")
    agent.init()
    agent.line(subtype="report", stdin_null=False)


@linux_only
def test_report_shows_ignored_signals(start):
    """What is ignored is told by number."""
    agent = start("!ignore-term", "!report")
    agent.init()
    ignored = agent.line(subtype="report")["ignored_signals"]
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} <= set(ignored)


# Descendants


@pytest.mark.parametrize(
    "mode", ["plain", "setsid", "daemon", "scrubbed", "ignore-term", "stopped", "storm 5"]
)
def test_every_mode_works_on_every_system(start, mode):
    """A descendant lives when it is announced; a mode that the system lacks acts as another."""
    assert started_child(start, mode).is_running()


def test_a_count_starts_that_many(start):
    """Each of several descendants is announced, with a pid of its own."""
    agent = start("!child plain 3")
    agent.init()
    pids = {agent.line(subtype="child", mode="plain")["pid"] for _ in range(3)}
    assert len(pids) == 3
    agent.line(type="result")


def test_a_descendant_outlives_its_leader(start):
    """The leader does not wait for what it started, which keeps no pipe open."""
    agent = start("!child plain", "bye")
    agent.init()
    pid = agent.line(subtype="child")["pid"]
    agent.line(type="assistant")
    agent.line(type="result")
    assert (agent.rest(), agent.exit(), agent.errors()) == (b"", 0, b"")
    assert psutil.Process(pid).is_running()


def test_a_descendant_names_its_mode_and_session(start):
    """The command line of a descendant tells whose it is."""
    agent = start("!child setsid", "!wait")
    session = agent.init()["session_id"]
    child = psutil.Process(agent.line(subtype="child")["pid"])
    assert child.cmdline()[-4:] == ["--descend", "setsid", "1", session]


@posix_only
def test_plain_stays_in_the_leaders_session(start):
    """A plain descendant is a child in the leader's session and group."""
    child = started_child(start, "plain")
    leader = child.ppid()
    assert (os.getsid(child.pid), os.getpgid(child.pid)) == (os.getsid(leader), os.getpgid(leader))


@posix_only
def test_setsid_leads_a_session(start):
    """A setsid descendant leads a session of its own, yet is the leader's child."""
    child = started_child(start, "setsid")
    assert os.getsid(child.pid) == child.pid
    assert child.parent() is not None


@posix_only
@pytest.mark.parametrize("mode", ["daemon", "scrubbed"])
def test_a_daemon_is_nobodys_child(start, mode):
    """A daemon is in a foreign session, leads none, and the leader is not its parent."""
    agent = start(f"!child {mode}", "!wait")
    agent.init()
    child = psutil.Process(agent.line(subtype="child")["pid"])
    assert os.getsid(child.pid) not in {child.pid, os.getsid(0)}
    assert psutil.Process(agent.process.pid).children() == []
    assert child.ppid() != agent.process.pid


@linux_only
def test_scrubbed_keeps_no_mark(start):
    """A scrubbed descendant has an empty environment and not one descriptor."""
    child = started_child(start, "scrubbed")
    assert child.environ() == {}
    assert os.listdir(f"/proc/{child.pid}/fd") == []


@linux_only
def test_descendants_have_null_streams(start):
    """A descendant holds none of the leader's pipes."""
    child = started_child(start, "daemon")
    links = {os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")}
    assert links == {os.devnull}


def test_hold_stdout_keeps_the_stream_open(start):
    """The stream ends only when the descendant dies, not with the leader."""
    agent = start("!child hold-stdout")
    agent.init()
    child = psutil.Process(agent.line(subtype="child")["pid"])
    agent.line(type="result")
    assert agent.exit() == 0
    assert agent.errors() == b""
    if sys.platform == "linux":
        assert os.readlink(f"/proc/{child.pid}/fd/1").startswith("pipe:")
    child.kill()
    assert agent.rest() == b""


@linux_only
def test_an_ignorant_descendant_ignores_what_asks_it_to_end(start):
    """SIGTERM, SIGINT and SIGHUP are ignored when it is announced."""
    child = started_child(start, "ignore-term")
    with open(f"/proc/{child.pid}/status", encoding="utf-8") as file:
        ignored = next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn"))
    assert all(ignored >> number - 1 & 1 for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


@posix_only
def test_a_stopped_descendant_is_stopped(start):
    """It is stopped when it is announced."""
    assert started_child(start, "stopped").status() == psutil.STATUS_STOPPED


def test_deep_is_a_chain(start):
    """Every level is announced from the top, each the child of the one before."""
    agent = start("!child deep 4", "!wait")
    agent.init()
    levels = [agent.line(subtype="child", mode="deep")["pid"] for _ in range(4)]
    parents = [psutil.Process(pid).ppid() for pid in levels]
    assert parents == [agent.process.pid, *levels[:3]]


@linux_only
def test_a_storm_replaces_its_processes(start):
    """A storm is many processes that are soon others, never more than two a lineage."""
    for _storm in range(10):  # one is over in 8 s, which the looker may spend waiting for the processor
        known, seen = set(os.listdir("/proc")), set[str]()
        agent = start("!child storm 10", "!wait")
        agent.init()
        root = agent.line(subtype="child", mode="storm")["pid"]
        known |= {str(agent.process.pid), str(root)}
        last_seen = time.monotonic()
        while len(seen) < 50 and time.monotonic() < last_seen + 2:
            # Only what is new is looked at: a scan of all takes longer than a life where there are many.
            new = {name for name in os.listdir("/proc") if name.isdigit()} - known
            known |= new
            if found := {name for name in new if agent.session.encode() in command_line(name)}:
                seen |= found
                last_seen = time.monotonic()
        # A scan may see a whole line one after another: what lives when it is over counts.
        assert len([one for one in agent.family() if one.is_running()]) <= 32
        if len(seen) >= 50:
            return
    raise AssertionError("no storm replaced its processes")


def command_line(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


# Ancestors


@posix_only
@pytest.mark.parametrize("depth", [1, 2])
def test_kill_parent_and_kill_grandparent(start, depth):
    """The ancestor dies of SIGKILL and the simulator lives on."""
    directive = "!kill-parent" if depth == 1 else "!kill-grandparent"
    if depth == 2 and sys.platform != "linux":
        pytest.skip("reads /proc")
    agent = start(directive, "!say alive", "!no-result", under=[sys.executable, "-c", PARENT] * depth)
    agent.init()
    assert agent.line(type="assistant")["message"]["content"][0]["text"] == "alive"
    assert agent.exit() == -signal.SIGKILL


@posix_only
def test_stop_parent(start):
    """The parent is stopped and the simulator lives on."""
    agent = start("!stop-parent", "!say alive", "!wait", under=[sys.executable, "-c", PARENT])
    agent.init()
    agent.line(type="assistant")
    pid = agent.line(subtype="waiting")["pid"]
    agent.keep(pid)
    _, status = os.waitpid(agent.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
