"""Store data: the database, its schema, atomic files and the cache."""
