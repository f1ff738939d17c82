"""A link between two programs: its arithmetic, in virtual time, and in real time as a TCP proxy."""
