"""The contract that the ETL side and the training side share: schema, card, manifest, store, recipe."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from penstock.table import read as read
else:

    def __getattr__(name: str) -> Any:  # so that a command loads no more than it needs
        if name != "read":
            raise AttributeError(f"module 'penstock' has no attribute {name!r}")
        from penstock.table import read

        return read
