"""Weights at rest: reading, checking and writing them."""
