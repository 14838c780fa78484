"""Read settings, rules, limits and contacts from files."""
