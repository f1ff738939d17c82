"""The HTTP API of the agent: routes, eligibility for speculative decoding, metrics."""
