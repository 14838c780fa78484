"""Evaluate rules, keep alerts and notify people."""
