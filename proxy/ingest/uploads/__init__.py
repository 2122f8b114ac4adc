"""Accepting uploads and maintaining their files and addresses."""
