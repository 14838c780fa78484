"""Keep data: the database, its schema, cached values and files that are published whole."""
