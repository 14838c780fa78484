"""Collect what is observed: snapshots that pages post, our own probes, markers, imported files."""
