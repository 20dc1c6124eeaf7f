"""The sampling engine: one denoising process, whoever takes part in it. Knows no prompts, files or requests."""
