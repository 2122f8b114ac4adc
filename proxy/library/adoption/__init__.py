"""Adoption of a storage tree that another system filled."""
