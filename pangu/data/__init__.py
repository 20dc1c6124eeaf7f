"""From a URL table to latents: cards, ingest, prepare, the Delta table, encoding."""
