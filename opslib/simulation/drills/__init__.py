"""Run drills that prove the runbooks against simulated faults."""
