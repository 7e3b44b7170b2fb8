"""Everybody's names for the tensors of a Swin Transformer: recognised, read, compared, written."""
