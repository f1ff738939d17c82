"""The control plane: when to verify, when to send, whether to draft."""
