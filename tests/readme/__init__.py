"""The README, done as a new user does it, and what it says held against the code."""
