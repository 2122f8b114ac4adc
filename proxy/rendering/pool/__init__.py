"""Render workers: child processes that do one job at a time, and the gates before them."""
