"""Uploaded files that wait for the ingest worker, in folders below one root."""
