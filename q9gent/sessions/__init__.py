"""Where sessions are remembered: an id and three facts about it, never a conversation.

``SessionStore`` is what another backend implements; ``files`` is the default.
"""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from q9gent.wire.fields import UnixSeconds, Uuid

__all__ = ["Session", "SessionStore"]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a session."""

    session_id: Annotated[
        Uuid, Meta(description="A canonical lower-case UUID: the CLI's own id of the conversation.")
    ]
    agent_type: Annotated[str, Meta(description="The caller's label.")]
    created_at: Annotated[UnixSeconds, Meta(description="Unix time in whole seconds.")]
    last_used: Annotated[UnixSeconds, Meta(description="Unix time in whole seconds.")]


class SessionStore(Protocol):
    """A place for sessions. Ids given to it are canonical UUIDs, checked before.

    Each method raises ``SessionStoreFailed`` when the place cannot be read or written. Cancellation
    leaves a session either as it was or as it should be, never in between.
    """

    async def save(self, session: Session) -> None:
        """Store a session, in place of one of the same id."""
        ...

    async def load(self, session_id: str) -> Session | None:
        """Return a session, or ``None`` if there is none."""
        ...

    async def touch(self, session_id: str) -> None:
        """Set ``last_used`` to now; nothing happens if there is no such session."""
        ...

    async def list_all(self) -> list[Session]:
        """Return all sessions, the oldest first. What is no session does not disturb."""
        ...

    async def delete(self, session_id: str) -> bool:
        """Remove a session; False if there was none."""
        ...

    async def check(self) -> None:
        """Find out whether sessions can be stored, for a warning at start."""
        ...
