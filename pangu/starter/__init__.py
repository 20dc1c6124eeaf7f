"""How the embedded autoencoder and text encoder (`pangu/assets`) were made; `pangu starter` makes them again."""
