"""Plan notifications and deliver them through channels."""
