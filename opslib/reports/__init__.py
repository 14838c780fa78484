"""Tell what happened: periodic reports, postmortems, verification."""
