"""Shared-noise sampling: the same noise and the same sampler at both ends."""
