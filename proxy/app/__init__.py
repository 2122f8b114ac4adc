"""Wiring: the only place where rooms are made and joined; server and command line begin here."""
