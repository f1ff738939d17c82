"""Why an answer that one gateway began cannot be gone on with by another."""

from __future__ import annotations


class CannotSplice(Exception):
    """The other gateway's answer is not the one that the client has the beginning of, or cannot be compared with it."""
