"""What moves bytes, in one place: pipe → lines → events → outbox → client.

``pump`` reads a process's pipe and fills the ``outbox``, which holds what the client has not taken yet:
in memory, then in the ``spool``'s files. How the bytes get from the outbox onto the wire is
``q9gent.http.delivery``'s; nothing else in the tree touches output.
"""
