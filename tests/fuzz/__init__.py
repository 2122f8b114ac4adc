"""Mutated images, sent through a real server; ``make fuzz`` runs it."""
