"""The contract that the ETL side and the training side share: schema, card, manifest, store, recipe."""

__version__ = "0.1.0"
