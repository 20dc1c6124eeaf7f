"""Sampling with pairs: a diffusers pipeline."""
