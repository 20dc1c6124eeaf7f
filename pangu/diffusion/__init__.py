"""The mathematics: pure functions and small values."""
