"""Rows of Python values into a table of the user's: what they look like, how they travel, and by which statement."""
