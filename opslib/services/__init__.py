"""Run the three long-running processes, each wiring the packages together."""
