"""Show how everything stands at a moment: panels, charts, details, the live view."""
