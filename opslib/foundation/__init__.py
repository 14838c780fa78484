"""Provide what every other package builds on: time, text, errors, configuration files and the database."""
