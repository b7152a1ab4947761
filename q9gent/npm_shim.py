"""What an npm launcher on Windows really runs: a ``.cmd`` shim → the start of a command.

npm, pnpm and yarn put no program on the path there but a generated batch file, and a batch file is
run by ``cmd.exe``, which reads ``%``, ``&`` and ``^`` in arguments as its own. There is no quoting
that is safe from it, so a prompt must never get there. The shim is read instead, and what it would
have started is started directly.

Every line must be one that the generators are known to write: cmd-shim 2 to 9 (npm) and
@zkochan/cmd-shim 3 to 9 (pnpm, yarn 1). A shim that does anything else is refused, since what it
does would be lost. ``NODE_PATH``, which pnpm's shims set, is dropped knowingly: it is where Node
looks *after* a program's own ``node_modules`` folders.

Pure: the file system is reached through the callables passed in.
"""

from __future__ import annotations

import ntpath
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE = r"%(?:~dp0|dp0%)\\"
"""The shim's own folder, as the two families of generators write it."""

_FURNITURE = re.compile(
    rf"""
      echo\ off | setlocal | endlocal
    | goto\ start | call\ :find_dp0 | :start | :find_dp0 | set\ dp0=%~dp0
    | exit\ /b (?:\ %errorlevel%)?
    | if\ exist\ "{_HERE}node\.exe"\ \( | \)\ else\ \( | \)
    | set\ "_prog={_HERE}node\.exe" | set\ "_prog=node"
    | set\ pathext=%pathext:;\.js;=;%
    | if\ not\ defined\ node_path\ \(
    | set\ "?node_path=[^"&|<>]*"?
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Lines that start nothing (without a leading ``@``)."""

_START = re.compile(
    rf"""
    (?:endlocal\ &\ goto\ \#_undefined_\#\ 2>nul\ \|\|\ title\ %comspec%\ &\ )?
    (?:set\ pathext=%pathext:;\.js;=;%\ &\ )?
    (?:
        (?P<program> "%_prog%" | "{_HERE}node\.exe" | node | "[a-z]:\\[^"%]*\\node\.exe" ) \s+
        (?P<options> (?:-[\w./:=-]+\s+)* )
    )?
    "{_HERE}(?P<target>[^"%]+)" \s+ %\*
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""The line that starts the program; the oldest shims have one for each place of Node."""


class _Start(NamedTuple):
    """A line that starts something."""

    program: str | None
    options: tuple[str, ...]
    target: str


def resolve_shim(
    path: str,
    text: str,
    *,
    exists: Callable[[str], bool],
    which: Callable[[str], str | None],
) -> tuple[str, ...]:
    r"""Find what a shim runs.

    Args:
        path: The shim's path, absolute; messages name it, and what it refers to is beside it.
        text: What the file holds.
        exists: Tells whether a path is a file.
        which: Finds a command on the path, like ``shutil.which``.

    Returns:
        The command's first elements, to be followed by the caller's arguments: the path of an
        ``.exe`` alone, or the path of ``node.exe``, its options if any, and the script's path.

    Raises:
        ValueError: It is no shim of a known form, or what it refers to is missing.
    """
    start = _parse(path, text)
    folder = ntpath.dirname(path)
    target = ntpath.normpath(ntpath.join(folder, start.target))
    if not exists(target):
        raise ValueError(f"{path} refers to {target}, which does not exist")
    if start.program is None:
        if not target.lower().endswith(".exe"):
            raise ValueError(f"{path} runs {target}, which is no .exe")
        return (target,)
    node = _find_node(path, folder, start.program, exists, which)
    return (node, *start.options, target)


def _parse(path: str, text: str) -> _Start:
    """Read the shim's lines: all known, and one thing started."""
    starts: set[_Start] = set()
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = raw.strip().removeprefix("@")
        if not line or _FURNITURE.fullmatch(line):
            continue
        match = _START.fullmatch(line)
        if match is None:
            raise ValueError(f"{path}, line {number}, is not what npm, pnpm or yarn write: {line:.80}")
        program, options, target = match.group("program", "options", "target")
        starts.add(_Start(_unquote(program), tuple((options or "").split()), target))
    # The oldest form has two such lines, Node beside the shim and Node on the path: equal here.
    if len(starts) != 1:
        raise ValueError(f"{path} starts {len(starts) or 'no'} programs; a launcher starts one")
    return starts.pop()


def _unquote(program: str | None) -> str | None:
    """Return an absolute path without its quotes, ``node`` for every other way to write Node."""
    if program is None:
        return None
    bare = program.strip('"')
    return bare if ntpath.splitdrive(bare)[0] else "node"


def _find_node(
    path: str,
    folder: str,
    program: str,
    exists: Callable[[str], bool],
    which: Callable[[str], str | None],
) -> str:
    """Return the ``node.exe`` that the shim would have taken."""
    if program != "node":
        if not exists(program):
            raise ValueError(f"{path} runs with {program}, which does not exist")
        return program
    beside = ntpath.join(folder, "node.exe")
    if exists(beside):
        return beside
    found = which("node")
    if found is None:
        raise ValueError(f"{path} runs with node, which is not on the path")
    if not found.lower().endswith(".exe"):
        raise ValueError(f"{path} runs with node, which is {found} here, no .exe")
    return found
