"""The errors that a user can cause and mend.

The command line prints them as one sentence without a stack trace; everything else that is raised is a
bug of ours. A message says what was expected, what was found, where, and what to do.
"""


class PenstockError(ValueError):
    """Anything a user can cause; the root of the five below."""


class RawDataError(PenstockError):
    """The raw data cannot be read, or is worse than the recipe allows."""


class RecipeError(PenstockError):
    """A recipe is not found, lacks a part, or contradicts itself."""


class DatasetError(PenstockError):
    """A dataset version is missing, damaged, or not the one that was asked for."""


class StorageError(PenstockError):
    """A place cannot be read or written: permissions, space, an unknown protocol."""


class RunError(PenstockError):
    """A run folder is missing, damaged, or does not fit the data or the configuration."""
