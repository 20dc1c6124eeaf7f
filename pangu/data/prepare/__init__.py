"""From raw shards to one dataset version: rows with every score, upscaled, selected, committed."""
