"""Run the checks that runbooks and checklists ask for."""
