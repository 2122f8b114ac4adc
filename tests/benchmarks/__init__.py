"""Benchmarks: ratios of rates between smartserve and its peers, measured in turns.

``python -m tests.benchmarks [NAME ...]`` runs them. Each module listed in ``__main__`` is one
benchmark: its ``measure`` returns a table or raises `Unmeasurable`.
"""
