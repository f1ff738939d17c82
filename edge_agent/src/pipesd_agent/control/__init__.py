"""What decides: when to verify, when to send, whether to draft."""
