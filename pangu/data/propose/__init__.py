"""A dataset card proposed from a folder or a table: what lies there, what of it can be used, and with which recipe."""
