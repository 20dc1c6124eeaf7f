"""`pangu retrain`: presses the deployment `retrain-pair` for a card, shows the run, and says what came out of it."""
