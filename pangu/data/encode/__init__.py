"""From a dataset version to latents and text embeddings, as training jobs want them."""
