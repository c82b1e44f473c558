"""Customers of a web shop: who buys again."""
