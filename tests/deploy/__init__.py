"""Tests of the files in ``deploy/``, as far as they can be run here."""
