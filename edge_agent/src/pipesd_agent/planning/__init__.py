"""When drafts leave the device: plans from measured costs and draft lengths (architecture §6, batcher)."""
