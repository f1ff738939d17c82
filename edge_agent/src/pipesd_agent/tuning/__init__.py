"""Tuning of the dual trigger's thresholds (R1, R2) while answers are written (architecture §6, tuner)."""
