"""Drawing with a released pair: pools, batching of steps, cooperation."""
