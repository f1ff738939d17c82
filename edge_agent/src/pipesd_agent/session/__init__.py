"""One request, sans-I/O, and what steers and watches it."""
