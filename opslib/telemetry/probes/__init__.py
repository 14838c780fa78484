"""Probe the app and its providers, and keep what was found."""
