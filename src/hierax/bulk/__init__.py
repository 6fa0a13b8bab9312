"""Many files: a row for each, whatever becomes of it."""
