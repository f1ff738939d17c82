"""What looks for better thresholds: Bayesian optimisation, coordinate search, and which of them is in use."""
