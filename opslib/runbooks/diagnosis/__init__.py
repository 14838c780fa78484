"""Answer diagnostic questions and determine the cause."""
