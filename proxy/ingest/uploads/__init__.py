"""Uploads of this server's own main API: acceptance, queue, URL replacement, sweep."""
