"""Ask diagnostic questions and determine the cause."""
