"""The pages of a stack: what runs, its datasets and its trainings. Drawing has a page of its own (`pangu.serve`)."""
