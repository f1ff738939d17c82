"""The methods under comparison, their models and bounds, and how each is tuned and played."""
