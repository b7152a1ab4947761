"""What the server sets for itself and its runs."""

from __future__ import annotations

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("there is no such limit", allow_module_level=True)

import resource

from q9gent.containment import environment


@pytest.mark.parametrize(
    ("started_with", "refused", "asked_for"),
    [
        ((256, 4096), [], [4096]),
        ((256, resource.RLIM_INFINITY), [resource.RLIM_INFINITY], [resource.RLIM_INFINITY, 10_240]),
        ((20_000, resource.RLIM_INFINITY), [resource.RLIM_INFINITY], [resource.RLIM_INFINITY, 20_000]),
        ((256, 4096), [4096, 10_240], [4096, 10_240]),
    ],
    ids=["as many as allowed", "macOS", "never fewer than before", "refused"],
)
def test_the_descriptor_limit_is_raised_as_far_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, started_with: tuple[int, int], refused: list[int], asked_for: list[int]
) -> None:
    """An infinite one is refused by macOS (EINVAL), though its hard limit is infinite."""
    asked = []

    def setrlimit(_which: int, limits: tuple[int, int]) -> None:
        soft, hard = limits
        asked.append(soft)
        assert hard == started_with[1]
        if soft in refused:
            raise ValueError("invalid argument")

    monkeypatch.setattr(environment, "STARTED_WITH", started_with)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    environment.raise_descriptor_limit()
    assert asked == asked_for
