"""Keep the append-only record of each incident: evidence, timeline, life cycle."""
