"""Launchers as their generators, cmd-shim and @zkochan/cmd-shim, wrote them in each version named."""

from __future__ import annotations

import pytest

from q9gent.npm_shim import resolve_shim

SHIM = r"C:\Users\Ann Lee\AppData\Roaming\npm\claude.cmd"
FOLDER = r"C:\Users\Ann Lee\AppData\Roaming\npm"
PACKAGE = FOLDER + r"\node_modules\@anthropic-ai\claude-code"
BESIDE = FOLDER + r"\node.exe"
INSTALLED = r"C:\Program Files\nodejs\node.EXE"

CMD_SHIM_9 = r"""@ECHO off
GOTO start
:find_dp0
SET dp0=%~dp0
EXIT /b
:start
SETLOCAL
CALL :find_dp0

IF EXIST "%dp0%\node.exe" (
  SET "_prog=%dp0%\node.exe"
) ELSE (
  SET "_prog=node"
)

endLocal & goto #_undefined_# 2>NUL || title %COMSPEC% & set PATHEXT=%PATHEXT:;.JS;=;% & "%_prog%"  "%dp0%\node_modules\@anthropic-ai\claude-code\cli.js" %*
"""

CMD_SHIM_4 = r"""@ECHO off
GOTO start
:find_dp0
SET dp0=%~dp0
EXIT /b
:start
SETLOCAL
CALL :find_dp0

IF EXIST "%dp0%\node.exe" (
  SET "_prog=%dp0%\node.exe"
) ELSE (
  SET "_prog=node"
  SET PATHEXT=%PATHEXT:;.JS;=;%
)

endLocal & goto #_undefined_# 2>NUL || title %COMSPEC% & "%_prog%"  "%dp0%\node_modules\@anthropic-ai\claude-code\cli.js" %*
"""

CMD_SHIM_3 = r"""@ECHO off
SETLOCAL
CALL :find_dp0

IF EXIST "%dp0%\node.exe" (
  SET "_prog=%dp0%\node.exe"
) ELSE (
  SET "_prog=node"
  SET PATHEXT=%PATHEXT:;.JS;=;%
)

"%_prog%"  "%dp0%\node_modules\@anthropic-ai\claude-code\cli.js" %*
ENDLOCAL
EXIT /b %errorlevel%
:find_dp0
SET dp0=%~dp0
EXIT /b
"""

CMD_SHIM_2_1 = r"""@SETLOCAL

@IF EXIST "%~dp0\node.exe" (
  @SET "_prog=%~dp0\node.exe"
) ELSE (
  @SET "_prog=node"
  @SET PATHEXT=%PATHEXT:;.JS;=;%
)

"%_prog%"  "%~dp0\node_modules\@anthropic-ai\claude-code\cli.js" %*
@ENDLOCAL
"""

CMD_SHIM_2_0 = r"""@IF EXIST "%~dp0\node.exe" (
  "%~dp0\node.exe"  "%~dp0\node_modules\@anthropic-ai\claude-code\cli.js" %*
) ELSE (
  @SETLOCAL
  @SET PATHEXT=%PATHEXT:;.JS;=;%
  node  "%~dp0\node_modules\@anthropic-ai\claude-code\cli.js" %*
)"""

ZKOCHAN_9 = r"""@SETLOCAL
@IF EXIST "%~dp0\node.exe" (
  "%~dp0\node.exe"  "%~dp0\node_modules\@anthropic-ai\claude-code\cli.js" %*
) ELSE (
  @SET PATHEXT=%PATHEXT:;.JS;=;%
  node  "%~dp0\node_modules\@anthropic-ai\claude-code\cli.js" %*
)
"""

ZKOCHAN_9_NODE_PATH = r"""@SETLOCAL
@IF NOT DEFINED NODE_PATH (
  @SET "NODE_PATH=C:\pnpm\global\5\node_modules;C:\pnpm\node_modules"
) ELSE (
  @SET "NODE_PATH=C:\pnpm\global\5\node_modules;C:\pnpm\node_modules;%NODE_PATH%"
)
@IF EXIST "%~dp0\node.exe" (
  "%~dp0\node.exe"  "%~dp0\node_modules\@anthropic-ai\claude-code\cli.js" %*
) ELSE (
  @SET PATHEXT=%PATHEXT:;.JS;=;%
  node  "%~dp0\node_modules\@anthropic-ai\claude-code\cli.js" %*
)
"""

ZKOCHAN_3_NODE_PATH = r"""@SET NODE_PATH=C:\pnpm\global\5\node_modules;C:\pnpm\node_modules
@IF EXIST "%~dp0\node.exe" (
  "%~dp0\node.exe"  "%~dp0\node_modules\@anthropic-ai\claude-code\cli.js" %*
) ELSE (
  @SETLOCAL
  @SET PATHEXT=%PATHEXT:;.JS;=;%
  node  "%~dp0\node_modules\@anthropic-ai\claude-code\cli.js" %*
)"""

ZKOCHAN_9_NODE_PINNED = r"""@SETLOCAL
@"C:\pnpm\nodejs\20\node.exe"  "%~dp0\node_modules\@anthropic-ai\claude-code\cli.js" %*
"""

CMD_SHIM_9_EXE = r"""@ECHO off
GOTO start
:find_dp0
SET dp0=%~dp0
EXIT /b
:start
SETLOCAL
CALL :find_dp0
"%dp0%\node_modules\@anthropic-ai\claude-code\bin\claude.exe"   %*
"""

CMD_SHIM_3_EXE = r"""@ECHO off
SETLOCAL
CALL :find_dp0
"%dp0%\node_modules\@anthropic-ai\claude-code\bin\claude.exe"   %*
ENDLOCAL
EXIT /b %errorlevel%
:find_dp0
SET dp0=%~dp0
EXIT /b
"""

CMD_SHIM_2_EXE = r'@"%~dp0\node_modules\@anthropic-ai\claude-code\bin\claude.exe"   %*' + "\n"

ZKOCHAN_9_EXE = r"""@SETLOCAL
@"%~dp0\node_modules\@anthropic-ai\claude-code\bin\claude.exe"   %*
"""

OPTIONS = ("--no-warnings", "--enable-source-maps")
CMD_SHIM_9_OPTIONS = CMD_SHIM_9.replace('"%_prog%"  ', f'"%_prog%" {" ".join(OPTIONS)} ')
ZKOCHAN_9_OPTIONS = ZKOCHAN_9.replace('  "%~dp0\\node_m', f'  {" ".join(OPTIONS)} "%~dp0\\node_m')

WITH_NODE = {
    "cmd-shim 9.0.2": CMD_SHIM_9,
    "cmd-shim 4 to 9.0.0": CMD_SHIM_4,
    "cmd-shim 3.0.3": CMD_SHIM_3,
    "cmd-shim 2.1.0": CMD_SHIM_2_1,
    "cmd-shim 2.0.2": CMD_SHIM_2_0,
    "@zkochan/cmd-shim 5 to 9": ZKOCHAN_9,
    "@zkochan/cmd-shim 6 to 9, NODE_PATH": ZKOCHAN_9_NODE_PATH,
    "@zkochan/cmd-shim 3, NODE_PATH": ZKOCHAN_3_NODE_PATH,
}
WITHOUT_NODE = {
    "cmd-shim 4 to 9": CMD_SHIM_9_EXE,
    "cmd-shim 3.0.3": CMD_SHIM_3_EXE,
    "cmd-shim 2": CMD_SHIM_2_EXE,
    "@zkochan/cmd-shim 5 to 9": ZKOCHAN_9_EXE,
}


def resolve(text, *, missing=(), node=INSTALLED):
    """Resolve with Windows line endings, where every file exists but those named."""
    return resolve_shim(
        SHIM,
        text.replace("\n", "\r\n"),
        exists=lambda path: path not in missing,
        which=lambda name: node if name == "node" else None,
    )


@pytest.mark.parametrize("text", WITH_NODE.values(), ids=WITH_NODE)
def test_node_beside_the_shim_comes_first(text):
    """A launcher prefers the Node in its own folder."""
    assert resolve(text) == (BESIDE, PACKAGE + r"\cli.js")


@pytest.mark.parametrize("text", WITH_NODE.values(), ids=WITH_NODE)
def test_node_on_the_path_comes_second(text):
    """Without one beside it, a launcher takes the Node of the path."""
    assert resolve(text, missing=[BESIDE]) == (INSTALLED, PACKAGE + r"\cli.js")


@pytest.mark.parametrize("text", WITHOUT_NODE.values(), ids=WITHOUT_NODE)
def test_an_exe_is_started_directly(text):
    """A package that brings its own program needs no Node."""
    assert resolve(text, node=None) == (PACKAGE + r"\bin\claude.exe",)


@pytest.mark.parametrize("text", [CMD_SHIM_9_OPTIONS, ZKOCHAN_9_OPTIONS], ids=["npm", "pnpm"])
def test_options_of_node_are_kept(text):
    """What a script's first line asks of Node stands before the script."""
    assert resolve(text) == (BESIDE, *OPTIONS, PACKAGE + r"\cli.js")


def test_a_pinned_node_is_taken():
    """Where pnpm wrote the path of one Node, that one runs."""
    assert resolve(ZKOCHAN_9_NODE_PINNED)[0] == r"C:\pnpm\nodejs\20\node.exe"


def test_a_pinned_node_must_exist():
    """A Node that was uninstalled is named."""
    with pytest.raises(ValueError, match=r"runs with C:\\pnpm\\nodejs\\20\\node\.exe"):
        resolve(ZKOCHAN_9_NODE_PINNED, missing=[r"C:\pnpm\nodejs\20\node.exe"])


def test_a_target_above_the_shim_is_normalised():
    """A launcher in node_modules/.bin refers to its package by way of the parent folder."""
    text = CMD_SHIM_9_EXE.replace(r"%dp0%\node_modules", r"%dp0%\..")
    expected = r"C:\Users\Ann Lee\AppData\Roaming\@anthropic-ai\claude-code\bin\claude.exe"
    assert resolve(text) == (expected,)


@pytest.mark.parametrize("change", [str.lower, lambda text: "\ufeff" + text, lambda text: text * 2])
def test_harmless_differences_are_read(change):
    """Case, a byte order mark and repetition change nothing for cmd.exe or for us."""
    assert [part.lower() for part in resolve(change(CMD_SHIM_9))] == [
        BESIDE.lower(),
        (PACKAGE + r"\cli.js").lower(),
    ]


def test_a_missing_target_is_named():
    """A package that is gone is said with its path."""
    with pytest.raises(ValueError, match=r"claude\.cmd refers to .*cli\.js, which does not exist"):
        resolve(CMD_SHIM_9, missing=[PACKAGE + r"\cli.js"])


def test_a_missing_node_is_named():
    """Without any Node, the message says so."""
    with pytest.raises(ValueError, match=r"claude\.cmd runs with node, which is not on the path"):
        resolve(CMD_SHIM_9, missing=[BESIDE], node=None)


def test_a_node_that_is_a_batch_file_is_refused():
    """A version manager's own shim for Node would bring cmd.exe back."""
    with pytest.raises(ValueError, match=r"node\.cmd here, no \.exe"):
        resolve(CMD_SHIM_9, missing=[BESIDE], node=r"C:\manager\node.cmd")


def test_a_target_that_is_no_exe_needs_a_program():
    """A bare script or batch file is nothing that can be started directly."""
    with pytest.raises(ValueError, match=r"claude\.cmd, which is no \.exe"):
        resolve(CMD_SHIM_9_EXE.replace("claude.exe", "claude.cmd"))


REFUSED = {
    "another interpreter": CMD_SHIM_9.replace("node.exe", "bun.exe").replace('"_prog=node', '"_prog=bun'),
    "a variable set by the first line": CMD_SHIM_9.replace(
        "CALL :find_dp0\n", "CALL :find_dp0\n@SET NODE_OPTIONS=--x\n"
    ),
    "a changed path": '@SET "PATH=C:\\pnpm\\nodejs\\20:%PATH%"\n' + ZKOCHAN_9,
    "a version manager": "@echo off\nvolta run %~n0 %*\n",
    "a hand-written script": '@echo off\ncd /d C:\\work\n"%~dp0\\claude.exe" %*\n',
    "a second command on the line": CMD_SHIM_2_EXE.rstrip() + " & del C:\\x\n",
    "extra arguments": CMD_SHIM_2_EXE.replace(" %*", " --dangerous %*"),
    "a command beside a variable": ZKOCHAN_9.replace(
        "@SETLOCAL", '@SETLOCAL\n@SET "NODE_PATH=x" & del C:\\x'
    ),
    "a variable in the target": CMD_SHIM_2_EXE.replace("claude-code", "%VERSION%"),
    "a shell script": '#!/bin/sh\nexec node "$basedir/cli.js" "$@"\n',
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_no_generator_writes_is_refused(text):
    """A launcher that does more than start a program is named, with the line, and not run."""
    with pytest.raises(ValueError, match=r"npm\\claude\.cmd, line \d+, is not what npm, pnpm or yarn"):
        resolve(text)


@pytest.mark.parametrize("text", ["", "\r\n", "@ECHO off\r\n", CMD_SHIM_9.partition("endLocal")[0]])
def test_a_shim_that_starts_nothing_is_refused(text):
    """An empty or cut-off file is no launcher."""
    with pytest.raises(ValueError, match=r"claude\.cmd starts no programs"):
        resolve(text)


def test_a_shim_that_starts_two_programs_is_refused():
    """It cannot be told which of two is meant."""
    with pytest.raises(ValueError, match=r"claude\.cmd starts 2 programs"):
        resolve(CMD_SHIM_9_EXE + CMD_SHIM_3)
