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

VERSION = "2.1.330 (simulated)"
PYTHON = getattr(sys, "_base_executable", sys.executable)  # a virtual environment's may be a launcher
VALUED = {"--append-system-prompt", "--max-turns", "--model", "--output-format", "--resume"}
VALUED |= {"--allowedTools", "--permission-mode", "--session-id", "--system-prompt-snapshot"}
CHUNK = 1 << 20
LIFE_SECONDS, STORM_SECONDS, STORM_PAUSE_SECONDS = 600, 60, 0.05
STORM_GENERATIONS = 150  # of 100 lineages: fewer zombies than there are pids, should nobody reap
REPARENTED = {"daemon", "scrubbed"}
APART = {"setsid", "stopped"} | REPARENTED
MODES = {"deep": 3, "storm": 100} | dict.fromkeys(("plain", "hold-stdout", "ignore-term", *APART), 1)


class Turn:
    """One prompt and what becomes of it. Without an ``ending`` there is no result line."""

    def __init__(self, session: str, model: str) -> None:
        self.session, self.model = session, model
        self.result = ""
        self.ending: str | None = "\n"
        self.started = time.monotonic()

    def line(self, kind: str, fields: dict[str, object], end: str = "\n") -> None:
        """Write one JSON line of the session."""
        write(1, encode({"type": kind} | fields | {"session_id": self.session}) + end)

    def system(self, subtype: str, **fields: object) -> None:
        """Write one line that no model has said."""
        self.line("system", {"subtype": subtype} | fields)

    def say(self, text: str) -> None:
        """Write an assistant line; the last text said is the result."""
        content = [{"type": "text", "text": text}]
        message = {"role": "assistant", "model": self.model, "content": content}
        self.line("assistant", {"message": message})
        self.result = text

    def finish(self, subtype: str = "success") -> None:
        """Write the result line."""
        if self.ending is not None:
            told = {"subtype": subtype, "is_error": subtype != "success", "result": self.result}
            spent = int((time.monotonic() - self.started) * 1000)
            told |= {"num_turns": 1, "duration_ms": spent, "total_cost_usd": 0}
            self.line("result", told, self.ending)


def write(descriptor: int, data: str | bytes) -> None:
    """Write all of it; that nobody reads does not stop the CLI either."""
    view = memoryview(data.encode("utf-8", "replace") if isinstance(data, str) else data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as problem:
        if problem.errno not in {errno.EPIPE, errno.EBADF, errno.EINVAL}:  # Windows: EINVAL
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


def remember(turn: Turn, old: str, prompt: str) -> list[str]:
    """Add the prompt to the session's history; return what was asked before, oldest first."""
    for session in (turn.session, old or turn.session):
        groups = [len(group) for group in session.split("-")]
        if groups != [8, 4, 4, 4, 12] or set(session) - set("-0123456789abcdef"):
            fail(f"Invalid session ID: {session} is not a UUID.")
    if config := os.environ.get("CLAUDE_CONFIG_DIR"):
        folder = f"{config}/simulated"
    elif sys.platform == "win32":
        folder = os.path.expandvars("%TEMP%/q9gent-simulator-%USERNAME%")
    else:
        temporary = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - the owner is looked at
        folder = f"{temporary}/q9gent-simulator-{os.getuid()}"
    os.makedirs(folder, 0o700, exist_ok=True)
    if sys.platform != "win32" and os.lstat(folder).st_uid != os.getuid():
        fail(f"{folder} belongs to another user.")
    asked = list[str]()
    if old and not os.path.exists(f"{folder}/{old}.json"):
        turn.result = f"No conversation found with session ID: {old}"
        write(1, turn.result + "\n")
        turn.finish("error_during_execution")
        os._exit(1)
    if old:
        import json  # noqa: PLC0415

        with open(f"{folder}/{old}.json", encoding="utf-8") as file:
            asked = json.load(file)
    try:
        with open(f"{folder}/{turn.session}.json", "wb" if turn.session == old else "xb") as kept:
            kept.write(encode([*asked, prompt[:200]]).encode("utf-8", "replace"))
    except FileExistsError:
        fail(f"Session ID {turn.session} is already in use.")
    return asked


def padded(head: bytes, size: int, tail: bytes) -> bytes:
    """Return a line of ``size`` bytes."""
    if size < len(head + tail):
        raise ValueError("too few bytes")
    return b"%b%b%b" % (head, b"x" * (size - len(head + tail)), tail)


def lines(_: Turn, rest: str) -> None:
    """Write a burst of lines of one size: as the number is padded, one template makes them all."""
    count, size = map(int, rest.split())
    template = padded(b'{"type":"line","n":%8d,"pad":"', size - 5, b'"}\n')
    numbers, step = range(1, count + 1), CHUNK // size + 1
    for first in range(0, count, step):
        write(1, b"".join(map(template.__mod__, numbers[first : first + step])))


def tick(turn: Turn, rest: str) -> None:
    """Write numbered lines with a pause between them."""
    count, seconds = rest.split()
    for n in range(1, int(count) + 1):
        time.sleep(float(seconds) if n > 1 else 0)
        turn.system("tick", n=n, time=time.time(), monotonic=time.monotonic())


def wait(turn: Turn, _: str) -> None:
    """Say so, and wait for ever."""
    turn.system("waiting", pid=os.getpid())
    while True:
        time.sleep(1)  # what came between the interpreter's last look and the sleep is heard after it


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


def strike(pid: int, number: int) -> None:
    """Signal an ancestor, but never init."""
    if pid <= 1 or not number:
        raise ValueError("there is no such process or signal here")
    os.kill(pid, number)


def parent_of(pid: int) -> int:
    """Return the parent of a process (on Linux only)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def report(turn: Turn, _: str) -> None:
    """Tell what this process was given. Python itself ignores SIGPIPE and SIGXFSZ."""
    told: dict[str, object] = {"argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ)}
    told["stdin_null"] = os.fstat(0)[:3] == os.stat(os.devnull)[:3]
    told |= {"pid": os.getpid(), "ppid": os.getppid()}
    if sys.platform != "win32":
        told |= {"sid": os.getsid(0), "pgid": os.getpgid(0)}
    if sys.platform == "linux":
        links = {int(fd): f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")}
        here = [fd for fd, link in links.items() if os.path.lexists(link)]  # less the one that listed them
        told["fds"] = [[fd, os.readlink(links[fd])] for fd in here]
        with open("/proc/self/status", encoding="utf-8") as file:
            status = dict(line.split(":", 1) for line in file)
        for name, key in ("blocked_signals", "SigBlk"), ("ignored_signals", "SigIgn"):
            told[name] = [n + 1 for n in range(64) if int(status[key], 16) >> n & 1]
    turn.system("report", **told)


def child(turn: Turn, rest: str) -> None:
    """Start descendants; announce them once all are in their final state."""
    mode, _, number = rest.partition(" ")
    usual = MODES[mode]
    count = int(number or usual)
    copies, depth = (1, count) if mode in {"deep", "storm"} else (count, 1)
    reading, writing = os.pipe()
    waits = [spawn(mode, depth, turn.session, writing) for _ in range(copies)]
    os.close(writing)
    with open(reading, "rb") as pipe:  # at its end every descendant has let go of it
        pids = [int(pid) for pid in pipe.read().split()]
    for wait_exited in waits if mode in REPARENTED else []:
        wait_exited()
    for pid in pids:
        turn.system("child", mode=mode, pid=pid)


def spawn(mode: str, count: int, session: str, handshake: int) -> Callable[[], object]:
    """Start a descendant whose stderr is the handshake; return what waits for its exit."""
    from subprocess import DEVNULL, Popen  # noqa: PLC0415

    argv = [PYTHON, "-I", "-S", __file__, "--descend", mode, str(count), session]
    apart = sys.platform == "win32" and mode not in {"plain", "hold-stdout", "deep"}
    return Popen(
        argv,
        stdin=DEVNULL,
        stdout=None if mode == "hold-stdout" else DEVNULL,
        stderr=handshake,
        env=scrubbed_environment() if mode == "scrubbed" else None,
        creationflags=0x208 if apart else 0,  # DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP
    ).wait


def scrubbed_environment() -> dict[str, str]:
    """Return none, but for the one variable without which no Python starts on Windows."""
    return {name: value for name, value in os.environ.items() if name.upper() == "SYSTEMROOT"}


def descend(mode: str, count: int, session: str) -> NoReturn:
    """Be a descendant: reach the final state, tell the pid, let go of the handshake, sleep."""
    null, pid = os.open(os.devnull, os.O_RDWR), os.getpid()
    if sys.platform != "win32":
        pid = settle(mode, count, null)
    elif mode in REPARENTED:
        spawn("setsid", count, session, 2)
        os._exit(0)
    write(2, f"{pid}\n")
    if mode == "deep" and count > 1:
        spawn(mode, count - 1, session, 2)
    if mode == "scrubbed":
        os.closerange(0, 2)
        os.closerange(3, 65536)
        os.close(2)  # last: who sees the handshake's end finds the final state
    else:
        os.dup2(null, 2)
    time.sleep(STORM_SECONDS if mode == "storm" else LIFE_SECONDS)
    if pid != os.getpid():
        os.kill(pid, 9)
    os._exit(0)


if sys.platform != "win32":

    def settle(mode: str, count: int, null: int) -> int:
        """Reach a mode's final state; return the pid to tell."""
        if mode in APART:
            os.setsid()
        if mode in REPARENTED and os.fork():
            os._exit(0)
        if mode == "ignore-term":
            ignore_term()
        elif mode == "storm":
            storm(count, null)
        elif mode == "stopped":  # a process that is stopped cannot end on its own: this one ends it
            pid = os.fork()
            if pid:
                os.waitpid(pid, os.WUNTRACED)
                return pid
            os.dup2(null, 2)
            os.kill(os.getpid(), _signal.SIGSTOP)
        return os.getpid()

    def storm(lineages: int, null: int) -> None:
        """Start lineages of short-lived processes, each of which forks its successor and exits."""
        deadline = time.monotonic() + STORM_SECONDS
        _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # leave no zombies here
        for _ in range(min(lineages, MODES["storm"])):
            if not os.fork():
                os.dup2(null, 2)
                for _ in range(STORM_GENERATIONS):
                    time.sleep(STORM_PAUSE_SECONDS)
                    if time.monotonic() > deadline or os.fork():
                        break
                os._exit(0)


DIRECTIVES: dict[str, Callable[[Turn, str], object]] = {
    "say": Turn.say,
    "hex": lambda _, rest: write(1, bytes.fromhex(rest)),
    "lines": lines,
    "tick": tick,
    "big": lambda _, rest: write(1, padded(b'{"type":"big","pad":"', int(rest), b'"}\n')),
    "stderr": lambda _, rest: write(2, rest + "\n"),
    "stderr-flood": lambda _, rest: write(2, padded(b"", int(rest), b"\n")),
    "sleep": lambda _, rest: time.sleep(float(rest)),
    "wait": wait,
    "exit": lambda _, rest: os._exit(int(rest)),
    "signal": die,
    "no-result": lambda turn, _: setattr(turn, "ending", None),
    "no-newline": lambda turn, _: setattr(turn, "ending", ""),
    "ignore-term": lambda *_: ignore_term(),
    "close-stdout": lambda *_: os.dup2(os.open(os.devnull, os.O_RDWR), 1),
    "child": child,
    "kill-parent": lambda *_: strike(os.getppid(), 9),
    "stop-parent": lambda *_: strike(os.getppid(), getattr(_signal, "SIGSTOP", 0)),
    "kill-grandparent": lambda *_: strike(parent_of(os.getppid()), 9),
    "report": report,
}


def obey(turn: Turn, row: str) -> None:
    """Carry out one directive."""
    name, _, rest = row[1:].rstrip("\r").partition(" ")
    try:
        DIRECTIVES[name](turn, rest)
    except (LookupError, ValueError) as problem:
        fail(f"this directive is wrong: {row} ({problem!r})", 2)


def main(words: list[str]) -> NoReturn:
    """Run one turn, or be a descendant."""
    if words[:1] == ["--descend"]:
        descend(words[1], int(words[2]), words[3])
    _signal.signal(_signal.SIGTERM, lambda *_: os._exit(143))
    _signal.signal(_signal.SIGINT, lambda *_: os._exit(0))
    options, prompt = parse(words)
    if "--version" in options:
        write(1, VERSION + "\n")
        os._exit(0)
    prompt = prompt or b"".join(iter(lambda: os.read(0, CHUNK), b"")).decode("utf-8", "replace")
    new, old = options.get("--session-id"), options.get("--resume", "")
    fork = "--fork-session" in options
    if not prompt or (new and old and not fork):
        fail("--session-id with --resume needs --fork-session." if prompt else "There is no prompt.")
    raw = os.urandom(16).hex()
    made = f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-a{raw[17:20]}-{raw[20:]}"
    turn = Turn(new or (not fork and old) or made, options.get("--model", "simulated"))
    asked = remember(turn, old, prompt)
    tools: list[object] = [*filter(None, options.get("--allowedTools", "").split(","))]
    turn.system("init", cwd=os.getcwd(), tools=tools, model=turn.model)
    rows = prompt.split("\n")
    for row in rows:
        if row.startswith("!"):
            obey(turn, row)
    text = "\n".join(row for row in rows if not row.startswith("!"))
    if text:
        before = f" You asked me before: {' / '.join(asked[-3:])}." if asked else ""
        turn.say(f"This is q9gent's simulated agent.{before} You said: {text}")
    turn.finish()
    os._exit(0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as problem:
        fail(str(problem))
