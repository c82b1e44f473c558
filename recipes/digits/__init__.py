"""Handwritten digits, 8x8."""
