"""A fuzzer that believes every word of `/openapi.json` finds nothing in a live server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from server_process import _environment

from q9gent.wire.openapi import document

if TYPE_CHECKING:
    from pathlib import Path

    from server_process import LiveServer

HOOKS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "support")
EXAMPLES = "15"
"""For each operation and phase: some 500 requests in all, on a machine that does other things, too."""

DEADLINE_SECONDS = 280
"""It takes 12 s on a machine that is left alone."""

pytestmark = pytest.mark.timeout(DEADLINE_SECONDS + 20)


def fuzz(server: LiveServer, folder: Path, schema: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Schemathesis with all its checks, valid and invalid input, the same at each run."""
    for number in range(3):
        server.spawn(f"{number}", create_session=True)  # for the links from /sessions
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", schema),
        *("--url", f"http://{server.host}:{server.port}", "--checks", "all", "--max-examples", EXAMPLES),
        *("--mode", "all", "--generation-deterministic", "--no-color"),
        *options,
    ]
    environment = _environment(folder=str(folder), token=server.token)
    environment |= {"SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": HOOKS, "NO_PROXY": "*"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_the_fuzzer_finds_nothing(server: LiveServer, tmp_path: Path) -> None:
    """No server error, nothing answered that is not described, no bad input taken, no good one refused."""
    found = fuzz(server, tmp_path, f"http://{server.host}:{server.port}/openapi.json")
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr
    assert "Tested: 7" in found.stdout or "7 passed" in found.stdout, found.stdout
    assert "Traceback" not in server.log
    assert server.client.get("/runs").json() == {"runs": []}


def spoil_event(described: dict[str, Any]) -> None:
    """Say that a run takes an hour at least."""
    described["components"]["schemas"]["Completed"]["properties"]["duration_ms"]["minimum"] = 3_600_000


def spoil_request(described: dict[str, Any]) -> None:
    """Say that a label is a number."""
    described["components"]["schemas"]["SpawnRequest"]["properties"]["agent_type"] = {"type": "integer"}


def spoil_status(described: dict[str, Any]) -> None:
    """Forget that a session may be unknown."""
    del described["paths"]["/message/{session_id}"]["post"]["responses"]["404"]


@pytest.mark.parametrize(
    ("spoil", "path"),
    [(spoil_event, "/spawn"), (spoil_request, "/spawn"), (spoil_status, "/message/{session_id}")],
)
def test_the_fuzzer_finds_what_is_wrong(server: LiveServer, tmp_path: Path, spoil: Any, path: str) -> None:
    """It looks into the events, too: a description that is spoiled in one place is caught."""
    described = document(metrics=False)
    spoil(described)
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(described))
    found = fuzz(server, tmp_path, str(file), "--include-path", path, "--max-failures", "1")
    assert found.returncode == 1, found.stdout[-8000:] + found.stderr
    assert "FAILURES" in found.stdout
