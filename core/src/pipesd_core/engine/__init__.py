"""The engine interface, and what is built on it alone: target-only generation, choices, a fake for tests."""
