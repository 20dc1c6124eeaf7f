"""Encoded datasets as the rows that a training job reads."""
