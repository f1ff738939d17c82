"""The dual threshold's (R1, R2), found while answers are written (architecture §6, tuner)."""
