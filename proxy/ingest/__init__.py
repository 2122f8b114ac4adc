"""Ingest: accepts uploads and turns them into media."""
