"""The pages of a stack, without a browser."""
