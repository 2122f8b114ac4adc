"""Values and pure decisions: no I/O, standard library only."""
