"""The torch side: a dataset version to a trained model. Imports no Spark."""

import os

# Before torch is imported: its idle threads would spin, and take the feed's cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
