"""The link to the gateways: one WebSocket that is reconnected when lost, and plain HTTP beside it."""
