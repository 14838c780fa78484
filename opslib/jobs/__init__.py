"""Execute and publish notebooks, know what is due, and keep every run in a ledger."""
