"""Families of denoisers, one file each: how a network class is built, asked, adapted and compiled (docs/models.md)."""
