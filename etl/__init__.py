"""The Spark side: raw files to clean rows to a dataset version. Imports no torch."""
