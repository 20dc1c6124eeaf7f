"""What a monitoring system reads of flows and trainings."""
