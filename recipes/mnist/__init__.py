"""Handwritten digits, 28x28."""
