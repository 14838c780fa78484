"""Draft, check and publish postmortems."""
