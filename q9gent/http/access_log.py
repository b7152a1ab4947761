"""Hypercorn's access log, with what the client sent as data: it can forge no line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercorn.logging import AccessLogAtoms, Logger

from q9gent.log import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hypercorn.typing import ResponseSummary, WWWScope


class AccessLogger(Logger):
    """Takes the same formats; hypercorn itself would print a path's ``%0A`` as a line end."""

    def atoms(
        self, request: WWWScope, response: ResponseSummary | None, request_time: float
    ) -> Mapping[str, str]:
        """Return the values of a line."""
        atoms = AccessLogAtoms(request, response, request_time)
        for name, value in atoms.items():
            if isinstance(value, str):
                atoms[name] = printable(value)
        return atoms
