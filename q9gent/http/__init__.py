"""HTTP: from a connection's bytes to a run and back.

In the order of a request: ``serve`` (listens, stops on a signal) → ``connection`` (a socket, its limits)
→ ``http1`` (hypercorn's protocol, its traps closed) → ``inbox`` (its messages) → ``exchange`` (one request
and the nursery that owns what it starts) → ``guards`` (who may ask) → ``routes`` (what is asked) →
``delivery`` (a run's events to its client) by an ordinary lane or by ``lane``, the direct one. ``app`` puts
them together.
"""
