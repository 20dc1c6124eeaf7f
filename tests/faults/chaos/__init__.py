"""Seeded faults while the main job runs on a real stack, and what is left after them."""
