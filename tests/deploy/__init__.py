"""What stands in ``deploy/`` works, as far as it can be run here."""
