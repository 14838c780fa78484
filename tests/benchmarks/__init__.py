"""Measure the figures in DESIGN.md, each beside a peer in the same run; no benchmark passes or fails."""
