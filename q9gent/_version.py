"""The version: the one place in the tree that says it."""

__version__ = "0.2.0"
