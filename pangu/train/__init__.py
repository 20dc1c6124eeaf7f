"""Training of one generator: the step, its data order, checkpoints, and the Ray Train job around them."""
