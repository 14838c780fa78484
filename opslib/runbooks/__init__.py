"""Guide what people do: steps, checks, diagnosis, open runbooks and checklists."""
