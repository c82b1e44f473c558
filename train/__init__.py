"""The torch side: a dataset version to a trained model. Imports no Spark."""
