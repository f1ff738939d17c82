"""The same in real time: the real gateway, agent and link emulator beside virtual time."""
