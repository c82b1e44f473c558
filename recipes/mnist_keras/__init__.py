"""Handwritten digits, 28x28, with Keras."""
