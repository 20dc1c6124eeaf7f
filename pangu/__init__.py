"""PanGu: time-decoupled training, Coop-Diffusion and serving of pairs of text-to-image generators.

Nothing happens on import: no directories, no servers, no environment changes.
"""

__version__ = "0.1.0"
