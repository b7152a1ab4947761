"""Use case 5: the guide's clients, each a program of its own, against a real server."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from api_script import Text

if TYPE_CHECKING:
    from messages_api import MessagesApi
    from server_process import LiveServer

CLIENT_SECONDS = 60.0


def run_client(server: LiveServer, name: str, command: list[str], folder: Path) -> list[str]:
    """Run the client on this server's port and return the lines that it prints."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    assert text.count("localhost:8080") >= 1
    script = folder / name
    script.write_text(text.replace("localhost:8080", f"localhost:{server.port}"), encoding="utf-8")
    done = subprocess.run(
        [*command, str(script)],
        env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=CLIENT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


def test_python_client(server: LiveServer, api: MessagesApi, tmp_path: Path) -> None:
    """It prints the session, every line of the CLI, and the end."""
    if importlib.util.find_spec("requests") is None:
        pytest.skip("requests is not installed")
    lines = run_client(server, "guide_client.py", [sys.executable], tmp_path)
    (kept,) = server.sessions()
    assert lines[0] == f"Session: {kept['session_id']}"
    assert all(line.startswith("Claude: {") for line in lines[1:-1])
    assert len(lines) >= 5
    assert lines[-1] == "Done!"
    assert api.turns[-1].prompts == ["Create a web scraper"]


def test_javascript_client(server: LiveServer, api: MessagesApi, tmp_path: Path) -> None:
    """It goes on in the same session; an answer of many reads is put together from whole lines."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    text = "é🎯" * 60_000
    api.script = lambda _call: Text(text)
    lines = run_client(server, "guide_client.mjs", [node], tmp_path)
    (kept,) = server.sessions()
    assert lines[0] == f"Session: {kept['session_id']}"
    assert lines.count("Done!") == 2
    assert lines[-1] == "Done!"
    assert sum(text in line for line in lines) == 4  # an assistant and a result line a turn
    assert api.turns[-1].prompts == ["Create a TODO app", "Add a test"]
