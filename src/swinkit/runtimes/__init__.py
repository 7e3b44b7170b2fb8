"""One call, `run(images) -> logits`, whatever executes the model."""
