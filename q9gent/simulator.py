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
VALUED = ["--allowedTools", "--append-system-prompt", "--max-turns", "--model", "--output-format", "--permission-mode", "--resume", "--session-id", "--system-prompt-snapshot"]
CHUNK = 1 << 20
LIFE_SECONDS, STORM_SECONDS, STORM_PAUSE_SECONDS = 600, 60, 0.05
STORM_GENERATIONS = 300  # where nobody reaps, 100 lineages leave fewer zombies than there are pids
APART, REPARENTED = {"setsid", "daemon", "scrubbed", "stopped"}, {"daemon", "scrubbed"}
MODES = {"deep": 3, "storm": 100} | dict.fromkeys(("plain", "hold-stdout", "ignore-term", *APART), 1)


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
    config = os.environ.get("CLAUDE_CONFIG_DIR")
    if sys.platform == "win32":
        folder = os.path.expandvars("%TEMP%/q9gent-simulator-%USERNAME%")
    else:
        folder = f"{os.environ.get('TMPDIR') or '/tmp'}/q9gent-simulator-{os.getuid()}"
    folder = f"{config}/simulated" if config else folder
    os.makedirs(folder, 0o700, exist_ok=True)
    if sys.platform != "win32" and os.lstat(folder).st_uid != os.getuid():
        fail(f"{folder} belongs to another user.")
    return f"{folder}/{session}.json"


def remember(turn: Turn, old: str, prompt: str) -> list[str]:
    """Add the prompt to the session's history; return what was asked before, oldest first."""
    asked = list[str]()
    if old:
        import json  # noqa: PLC0415

        try:
            with open(history(old), encoding="utf-8") as file:
                asked = json.load(file)
        except FileNotFoundError:
            turn.result = f"No conversation found with session ID: {old}"
            write(1, turn.result + "\n")
            turn.finish("error_during_execution")
            os._exit(1)
    try:
        with open(history(turn.session), "wb" if turn.session == old else "xb") as kept:
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
        turn.line("system", subtype="tick", n=n, time=time.time(), monotonic=time.monotonic())


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
    mode, _, number = rest.partition(" ")
    count = int(number or MODES[mode])
    copies, depth = (1, count) if mode in {"deep", "storm"} else (count, 1)
    reading, writing = os.pipe()
    waits = [spawn(mode, depth, turn.session, writing) for _ in range(copies)]
    os.close(writing)
    with open(reading, "rb") as pipe:  # at its end every descendant has let go of it
        pids = [int(pid) for pid in pipe.read().split()]
    for wait_exited in waits if mode in REPARENTED else []:
        wait_exited()
    for pid in pids:
        turn.line("system", subtype="child", mode=mode, pid=pid)


def spawn(mode: str, count: int, session: str, handshake: int) -> Callable[[], object]:
    """Start a descendant whose stderr is the handshake; return what waits for its exit."""
    argv = [PYTHON, "-I", "-S", __file__, "--descend", mode, str(count), session]
    holds = mode == "hold-stdout"
    if sys.platform == "win32":
        from subprocess import DEVNULL, Popen  # noqa: PLC0415

        out, flags = None if holds else DEVNULL, 0  # or DETACHED_PROCESS, CREATE_NEW_PROCESS_GROUP
        flags = 0 if mode in {"plain", "deep", "hold-stdout"} else 0x208
        return Popen(argv, 0, None, DEVNULL, out, handshake, creationflags=flags).wait
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
    actions = [(os.POSIX_SPAWN_DUP2, handshake, 2), null, (os.POSIX_SPAWN_DUP2, 0, 1)]
    environment = {} if mode == "scrubbed" else os.environ
    pid = os.posix_spawn(PYTHON, argv, environment, file_actions=actions[: 2 if holds else 3])
    return lambda: os.waitpid(pid, 0)


def descend(mode: str, count: int, session: str) -> NoReturn:
    """Be a descendant: reach the final state, tell the pid, let go of the handshake, sleep."""
    null = os.open(os.devnull, os.O_RDWR)
    if sys.platform == "win32":
        if mode in REPARENTED:
            os._exit(spawn("setsid", count, session, 2) is None)
    elif mode in APART:
        os.setsid()
        if mode in REPARENTED and os.fork():
            os._exit(0)
    pid = os.getpid()
    if sys.platform != "win32" and mode == "stopped":  # what is stopped cannot end: this one ends it
        pid = os.fork()
        if not pid:
            os.dup2(null, 2)
            os.kill(os.getpid(), _signal.SIGSTOP)
        else:
            os.waitpid(pid, os.WUNTRACED)
    elif mode == "ignore-term":
        ignore_term()
    elif mode == "storm":
        storm(count, null)
    write(2, f"{pid}\n")
    if mode == "deep" and count > 1:
        spawn(mode, count - 1, session, 2)
    os.dup2(null, 2)
    if mode == "scrubbed":
        os.closerange(0, 65536)
    time.sleep(STORM_SECONDS if mode == "storm" else LIFE_SECONDS)
    if mode == "stopped":
        os.kill(pid, 9)
    os._exit(0)


def storm(lineages: int, null: int) -> None:
    """Start lineages of short-lived processes, each of which forks its successor and exits."""
    assert sys.platform != "win32"
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
    "kill-parent": lambda *_: strike("SIGKILL"),
    "stop-parent": lambda *_: strike("SIGSTOP"),
    "kill-grandparent": lambda *_: strike("SIGKILL", generations=2),
    "report": report,
}


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
    new, old, fork = (
        options.get("--session-id"),
        options.get("--resume", ""),
        "--fork-session" in options,
    )
    if not prompt or (new and old and not fork):
        fail("--session-id with --resume needs --fork-session." if prompt else "There is no prompt.")
    raw = os.urandom(16).hex()
    made = f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-a{raw[17:20]}-{raw[20:]}"
    turn = Turn(new or (not fork and old) or made, options.get("--model", "simulated"))
    asked = remember(turn, old, prompt)
    tools: list[object] = [*filter(None, options.get("--allowedTools", "").split(","))]
    turn.line("system", subtype="init", cwd=os.getcwd(), tools=tools, model=turn.model)
    orders = [row for row in prompt.split("\n") if row.startswith("!")]
    for row in orders:
        name, _, rest = row[1:].rstrip("\r").partition(" ")
        try:
            DIRECTIVES[name](turn, rest)
        except (LookupError, ValueError) as problem:
            fail(f"!{name}: {problem!r}", 2)
    text = "\n".join(row for row in prompt.split("\n") if not row.startswith("!"))
    if text or not orders:
        before = f" You asked me before: {' / '.join(asked[-3:])}." if asked else ""
        turn.say(f"This is q9gent's simulated agent.{before} You said: {text}")
    turn.finish()
    os._exit(0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as problem:
        fail(str(problem))
