"""Read fills, match them into round trips and compute costs and results."""
