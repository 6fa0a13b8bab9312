"""One place where hierax and its peers are timed against each other."""
