"""The mathematics: pure functions and small values. Knows nothing of Ray, MLflow, files or diffusers pipelines."""
