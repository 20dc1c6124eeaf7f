"""The dataset table: its columns, its commits and versions, and what is beside it."""
