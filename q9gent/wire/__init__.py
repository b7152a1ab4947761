"""What travels on the wire, as pure functions: no input or output, no clock, no trio.

``requests`` decodes bodies, ``lines`` cuts the CLI's output, ``events`` makes server-sent events.
"""
