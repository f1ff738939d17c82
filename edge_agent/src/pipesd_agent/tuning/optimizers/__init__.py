"""Optimizers of the thresholds: Bayesian optimisation, coordinate search, and the choice between them."""
