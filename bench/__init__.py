"""What README's figures are made by: each module prints a table for people and one JSON object as its last line."""

import train  # noqa: F401  # before torch, whose idle threads would spin: train/__init__.py
