"""Drawing with a released pair: pools, batching of steps, cooperation. Knows nothing of HTTP and Ray."""
