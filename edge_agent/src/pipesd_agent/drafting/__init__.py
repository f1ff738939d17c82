"""Drafting on the edge: drafters, which propose tokens, and the thread that one runs on (architecture §6)."""
