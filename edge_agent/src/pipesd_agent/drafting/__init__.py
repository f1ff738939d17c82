"""Drafting on the edge: what proposes tokens, and the thread that it runs on (architecture §6)."""
