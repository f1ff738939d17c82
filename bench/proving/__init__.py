"""The proving ground: every claim about speed and cost is measured here, in virtual time, on recorded tokens."""
