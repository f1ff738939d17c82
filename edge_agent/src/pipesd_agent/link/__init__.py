"""The way to the gateways: one WebSocket kept up, and plain HTTP beside it."""
