"""What a model is asked to do: one file per task, each with its loss, its post-processing and its result types."""
