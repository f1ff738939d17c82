"""The parts of an HTTP program: server, limits, lifecycle, API keys, logs, settings."""
