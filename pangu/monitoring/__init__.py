"""What a monitoring system reads of flows and trainings. Knows nothing of serving, which counts for itself."""
