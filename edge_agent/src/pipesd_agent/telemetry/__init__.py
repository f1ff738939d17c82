"""What is measured: link, drafter, target, acceptance, time per token."""
