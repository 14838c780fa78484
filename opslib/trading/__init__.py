"""Calculate with option chains and fills; nothing here knows monitoring."""
