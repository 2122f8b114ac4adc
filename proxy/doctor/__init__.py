"""Checks of a running installation: each reports a finding and what the operator should do."""
