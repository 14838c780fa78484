"""Measure DESIGN.md's numbers, each beside a peer in the same run; nothing here passes or fails."""
