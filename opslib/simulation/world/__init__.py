"""Simulate the app, its page and its providers over HTTP and WebSocket."""
