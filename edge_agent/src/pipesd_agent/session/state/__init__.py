"""The state of a session by what it is about: drafts, free runs, the lane, acknowledgements, handoff, counts."""
