"""Digits spoken by six people."""
