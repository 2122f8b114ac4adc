"""Ingest: how pictures come into the database and the storage."""
