"""The embedded example: OpenMoji drawings, and a loopback origin that serves them."""
