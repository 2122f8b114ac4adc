"""Benchmarks: smartserve against its limits on this machine, as ratios of rates taken in turns.

``python -m tests.benchmarks [NAME ...]`` runs them. A module here that is listed in ``__main__``
is one benchmark: its ``measure`` gives a table, or raises `Unmeasurable`.
"""
