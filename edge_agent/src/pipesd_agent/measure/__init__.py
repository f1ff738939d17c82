"""What the agent measures of its link, its drafter and its target; pure, driven by `monitor` (architecture §6)."""
