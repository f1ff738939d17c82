"""The HTTP side of the agent: routes, what can be drafted for, metrics."""
