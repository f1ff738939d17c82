"""What a session needs of an engine, and what is built on it alone."""
