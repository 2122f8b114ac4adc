"""Rendering in child processes: the pool in the server, the worker in the child."""
