"""Compute with option chains and fills."""
