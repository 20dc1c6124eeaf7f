"""What goes in and out: pairs from pipelines of others, and halves, adapters and cards for them."""
