"""What is built from a recipe: denoisers, text encoders, autoencoders."""
