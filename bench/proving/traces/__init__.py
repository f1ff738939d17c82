"""What methods are played on: recorded and made-up traces, and how they are recorded, fitted and read."""
