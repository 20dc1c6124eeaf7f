"""What a run will need: rows, bytes, core- and device-hours, wall-clock and cost, before anything is started.

Owns counting, measuring on this installation, and arithmetic. Starts no real run.
"""
