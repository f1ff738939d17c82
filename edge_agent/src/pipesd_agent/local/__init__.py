"""Answers of the draft model alone, which are labelled as such."""
