"""What the how-tos show is what is in examples/ and in deploy/, where tests run it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SOURCES = {"sh": "*.sh", "python": "*.py", "javascript": "*.mjs"}


def blocks(page: str, *languages: str) -> list[tuple[str, str]]:
    """The code blocks of a how-to, with their languages."""
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    found = [(match[1], match[2]) for match in FENCE.finditer(text) if match[1] in languages]
    assert found
    return found


@pytest.mark.parametrize("page", ["use-cases.md", "clients.md"])
def test_snippets_are_parts_of_the_examples(page: str) -> None:
    """To the letter, so that what a reader copies is what was run."""
    for language, code in blocks(page, *SOURCES):
        if "from q9gent.client import" in code:
            continue  # tests/client/test_documented_clients.py runs it as it stands
        files = (ROOT / "examples").rglob(SOURCES[language])
        assert any(code in path.read_text(encoding="utf-8") for path in files), code


@pytest.mark.parametrize(
    ("page", "language", "name"),
    [
        ("reverse-proxy.md", "nginx", "nginx.conf"),
        ("docker.md", "dockerfile", "Dockerfile"),
        ("docker.md", "yaml", "compose.yaml"),
        ("kubernetes.md", "yaml", "kubernetes.yaml"),
        ("systemd.md", "ini", "q9gent.service"),
    ],
)
def test_the_first_block_is_the_file_of_deploy(page: str, language: str, name: str) -> None:
    """Whole, as it was tested."""
    assert blocks(page, language)[0][1] == (ROOT / "deploy" / name).read_text(encoding="utf-8")
