"""The contract that the ETL side and the training side share: schema, card, manifest, store, recipe."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from penstock.frame import write as write
    from penstock.table import read as read
else:
    MODULES = {"read": "penstock.table", "write": "penstock.frame"}

    def __getattr__(name: str) -> Any:  # so that a command loads no more than it needs
        if name not in MODULES:
            raise AttributeError(f"module 'penstock' has no attribute {name!r}")
        return getattr(importlib.import_module(MODULES[name]), name)
