"""A stand-in for the Claude CLI: it speaks the CLI's JSON lines and does what the prompt says.

Run as a plain file, ``python -I -S simulator.py -p PROMPT …``, it serves the demo and the tests. To
start in a few milliseconds it imports little: ``_signal`` and ``_json`` instead of their wrappers.

Prompt lines that start with ``!`` are directives (``DIRECTIVES`` is the table), obeyed in order
between ``init`` and ``result``; the other lines are what was said. Sizes are in bytes and include
the newline, times are in seconds, running numbers start at 1. Descendants (``!child MODE [COUNT]``)
end on their own after ten minutes and carry the run's session id on their command line:
``simulator.py --descend MODE COUNT SESSION``. A mode the system lacks acts as ``setsid``.
"""

from __future__ import annotations

import errno
import os
import sys
import time

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from json.encoder import encode_basestring as quote
    from typing import NoReturn
else:
    import _signal
    from _json import encode_basestring as quote

PYTHON = getattr(sys, "_base_executable", sys.executable)  # a virtual environment's may be a launcher
VALUED = {"--append-system-prompt", "--max-turns", "--model", "--output-format", "--resume"}
VALUED |= {"--allowedTools", "--permission-mode", "--session-id", "--system-prompt-snapshot"}
TOGETHER = {"plain", "hold-stdout", "deep", "ignore-term", "storm"}
REPARENTED = {"daemon", "scrubbed"}
APART = {"setsid", "stopped"} | REPARENTED
POSIX_ONLY = {"ignore-term", "storm", "scrubbed", "stopped"}
CHUNK = 1 << 20
LIFE_SECONDS, STORM_SECONDS, STORM_PAUSE_SECONDS = 600, 60, 0.05
STORM_LINEAGES, STORM_GENERATIONS = 100, 300  # at most: what nobody reaps stays, too


class Turn:
    """One prompt and what becomes of it. Without an ``ending`` there is no result line."""

    def __init__(self, session: str, model: str) -> None:
        self.session, self.model = session, model
        self.result = ""
        self.ending: str | None = "\n"
        self.started = time.monotonic()

    def line(self, kind: str, end: str = "\n", **fields: object) -> None:
        """Write one JSON line of the session."""
        write(1, encode({"type": kind, **fields, "session_id": self.session}) + end)

    def say(self, text: str) -> None:
        """Write an assistant line; the last text said is the result."""
        message = {"role": "assistant", "model": self.model}
        self.line("assistant", message=message | {"content": [{"type": "text", "text": text}]})
        self.result = text

    def finish(self, subtype: str = "success") -> None:
        """Write the result line."""
        if self.ending is not None:
            told = {"subtype": subtype, "is_error": subtype != "success", "result": self.result}
            spent = int((time.monotonic() - self.started) * 1000)
            told |= {"num_turns": 1, "duration_ms": spent, "total_cost_usd": 0}
            self.line("result", self.ending, **told)


def write(descriptor: int, data: str | bytes) -> None:
    """Write all of it; that nobody reads does not stop the CLI either."""
    view = memoryview(data.encode("utf-8", "replace") if isinstance(data, str) else data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as problem:
        if problem.errno not in {errno.EPIPE, errno.EINVAL}:  # the latter on Windows
            raise


def encode(value: object) -> str:
    """Return a value as JSON, without the price of importing ``json``."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{quote(key)}:{encode(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(encode, value)) + "]"
    return quote(value) if isinstance(value, str) else str(value).lower()


def fail(message: str, status: int = 1) -> NoReturn:
    """Exit with nothing but a line on stderr."""
    write(2, f"Error: {message}\n")
    os._exit(status)


def parse(words: list[str]) -> tuple[dict[str, str], str]:
    """Return the options with their values, and the prompt, ``""`` where there is none."""
    options, prompt, rest = dict[str, str](), "", words[::-1]
    while rest:
        word = rest.pop()
        name, equals, value = word.partition("=")
        if word in {"-p", "--print", "--"}:
            if rest and (word == "--" or not rest[-1].startswith("-")):
                prompt = rest.pop()
        elif name in VALUED and not equals and rest:
            value = rest.pop()
            while name == "--allowedTools" and rest and not rest[-1].startswith("-"):
                value += "," + rest.pop()
        options[name] = value
    return options, prompt


def history(session: str) -> str:
    """Return the file of a session's history; its folder is made, for this user alone."""
    if [*map(len, session.split("-"))] != [8, 4, 4, 4, 12] or set(session) - set("-0123456789abcdef"):
        fail(f"Invalid session ID: {session} is not a UUID.")
    base = os.environ.get("CLAUDE_CONFIG_DIR", "")
    if not base:
        user = os.environ.get("USERNAME") if sys.platform == "win32" else os.getuid()
        folders = map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))
        base = os.path.join(next(filter(None, folders), "/tmp"), f"q9gent-simulator-{user}")  # noqa: S108
        os.makedirs(base, 0o700, exist_ok=True)
        if sys.platform != "win32" and os.lstat(base).st_uid != user:
            fail(f"{base} belongs to another user.")
    os.makedirs(os.path.join(base, "simulated"), 0o700, exist_ok=True)
    return os.path.join(base, "simulated", session + ".json")


def remember(turn: Turn, options: dict[str, str], prompt: str) -> list[str]:
    """Add the prompt to the session's history; return what was asked before, oldest first."""
    asked, old = list[str](), options.get("--resume")
    if old:
        if turn.session != old and "--fork-session" not in options:
            fail("--session-id with --resume needs --fork-session.")
        try:
            with open(history(old), encoding="utf-8") as file:
                import json  # noqa: PLC0415

                asked = json.load(file)
        except FileNotFoundError:
            turn.result = f"No conversation found with session ID: {old}"
            write(1, turn.result + "\n")
            turn.finish("error_during_execution")
            os._exit(1)
    path = history(turn.session)
    new = f"{path}.{os.getpid()}" if turn.session == old else path
    try:
        with open(new, "xb") as file:
            file.write(encode([*asked, prompt[:200]]).encode("utf-8", "replace"))
    except FileExistsError:
        fail(f"Session ID {turn.session} is already in use.")
    os.replace(new, path)
    return asked


def lines(_: Turn, rest: str) -> None:
    """Write a burst of lines of one size: padding the number makes them one template."""
    count, size = map(int, rest.split())
    head, tail = b'{"type":"system","subtype":"line","n":%9d,"pad":"', b'"}\n'
    pad = size - len(head % 0) - len(tail)
    template = head + b"x" * pad + tail if pad >= 0 else b'{"n":%%%dd}\n' % (size - 7)
    if len(template % count) != size:
        raise ValueError("SIZE is too small")
    numbers, step = range(1, count + 1), CHUNK // size + 1
    for first in range(0, count, step):
        write(1, b"".join(map(template.__mod__, numbers[first : first + step])))


def tick(turn: Turn, rest: str) -> None:
    """Write numbered lines with a pause between them."""
    count, seconds = rest.split()
    for n in range(1, int(count) + 1):
        time.sleep(float(seconds) if n > 1 else 0)
        turn.line("system", subtype="tick", n=n, time=time.time(), monotonic=time.monotonic())


def flood(descriptor: int, head: bytes, size: str, tail: bytes) -> None:
    """Write one line of ``size`` bytes, in pieces."""
    pad = int(size) - len(head) - len(tail)
    if pad < 0:
        raise ValueError("BYTES is too small")
    write(descriptor, head)
    for done in range(0, pad, CHUNK):
        write(descriptor, b"x" * min(pad - done, CHUNK))
    write(descriptor, tail)


def wait(turn: Turn, _: str) -> None:
    """Say so, and wait for ever."""
    turn.line("system", subtype="waiting", pid=os.getpid())
    while True:
        time.sleep(LIFE_SECONDS)


def die(_: Turn, rest: str) -> None:
    """Take a signal as if nothing handled it."""
    if sys.platform != "win32" and _signal.getsignal(int(rest)) != _signal.SIG_DFL:
        _signal.signal(int(rest), _signal.SIG_DFL)
    os.kill(os.getpid(), int(rest))


def ignore_term() -> None:
    """Ignore what asks a process to end."""
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK"):
        if hasattr(_signal, name):
            _signal.signal(getattr(_signal, name), _signal.SIG_IGN)


def strike(name: str, generations: int = 1) -> None:
    """Signal an ancestor, but never init; grandparents are known on Linux only."""
    pid, number = os.getppid(), 9 if name == "SIGKILL" else getattr(_signal, name, 0)
    if generations == 2:
        with open(f"/proc/{pid}/stat", "rb") as file:
            pid = int(file.read().rpartition(b")")[2].split()[1])
    if pid <= 1 or not number:
        raise ValueError("there is no such process or signal here")
    os.kill(pid, number)


def report(turn: Turn, _: str) -> None:
    """Tell what this process was given. Python itself ignores SIGPIPE and SIGXFSZ."""
    told: dict[str, object] = {"argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ)}
    told["stdin_null"] = os.fstat(0)[:3] == os.stat(os.devnull)[:3]
    told |= {"pid": os.getpid(), "ppid": os.getppid(), "fds": (fds := list[object]())}
    if sys.platform != "win32":
        told |= {"sid": os.getsid(0), "pgid": os.getpgid(0)}
    if sys.platform == "linux":
        for fd in os.listdir("/proc/self/fd"):
            if os.path.lexists(link := f"/proc/self/fd/{fd}"):  # not the one that listed them
                fds.append([int(fd), os.readlink(link)])
        with open("/proc/self/status", encoding="utf-8") as file:
            status = dict(line.split(":", 1) for line in file)
        for name, key in ("blocked_signals", "SigBlk"), ("ignored_signals", "SigIgn"):
            told[name] = [n + 1 for n in range(64) if int(status[key], 16) >> n & 1]
    turn.line("system", subtype="report", **told)


def child(turn: Turn, rest: str) -> None:
    """Start descendants; announce them once all are in their final state."""
    mode, _, count = rest.partition(" ")
    if mode not in TOGETHER | APART:
        raise ValueError("no such mode")
    acting = "setsid" if sys.platform == "win32" and mode in POSIX_ONLY else mode
    number = int(count or {"deep": 3, "storm": STORM_LINEAGES}.get(mode, 1))
    copies, depth = (1, number) if acting in {"deep", "storm"} else (number, 1)
    reading, writing = os.pipe()
    waits = [spawn(acting, depth, turn.session, writing) for _ in range(copies)]
    os.close(writing)
    with open(reading, "rb") as pipe:  # its end: every descendant has let go of it
        pids = [int(pid) for pid in pipe.read().split()]
    for wait_exited in waits if acting in REPARENTED else []:
        wait_exited()
    for pid in pids:
        turn.line("system", subtype="child", mode=mode, pid=pid)


def spawn(mode: str, count: int, session: str, handshake: int) -> Callable[[], object]:
    """Start a descendant whose stderr is the handshake; return what waits for its exit."""
    argv = [PYTHON, "-I", "-S", __file__, "--descend", mode, str(count), session]
    holds = mode == "hold-stdout"
    if sys.platform == "win32":
        from subprocess import DEVNULL, Popen  # noqa: PLC0415

        flags = 0x208 if mode in APART else 0  # DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP
        out = None if holds else DEVNULL
        return Popen(argv, 0, None, DEVNULL, out, handshake, creationflags=flags).wait
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
    actions = [(os.POSIX_SPAWN_DUP2, handshake, 2), null, (os.POSIX_SPAWN_DUP2, 0, 1)]
    environment = {} if mode == "scrubbed" else os.environ
    pid = os.posix_spawn(PYTHON, argv, environment, file_actions=actions[: 2 if holds else 3])
    return lambda: os.waitpid(pid, 0)


def descend(mode: str, count: int, session: str) -> NoReturn:
    """Be a descendant: reach the final state, tell the pid, let go of the handshake, sleep."""
    pid, null = os.getpid(), os.open(os.devnull, os.O_RDWR)
    if sys.platform == "win32":
        if mode == "daemon":
            spawn("setsid", count, session, 2)
            os._exit(0)
    else:
        if mode in APART:
            os.setsid()
        if mode in REPARENTED:
            pid = os.fork() or os.getpid()
