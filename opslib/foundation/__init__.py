"""What everything stands on: time, text, errors, configuration files, the database."""
