"""Mutants of real pictures, sent through a real server; ``make fuzz`` runs it."""
