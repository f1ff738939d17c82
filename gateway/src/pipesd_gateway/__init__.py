"""PipeSD, the cloud side: protocol, sessions, shared noise, engine interface, embedded engine."""
