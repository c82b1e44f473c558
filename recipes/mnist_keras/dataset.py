"""MNIST's digits, as the recipe `mnist` has them: idx files, whose 10,000 are the test split."""

from recipes.mnist.dataset import clean, fit, read, rules, schema, split

__all__ = ["clean", "fit", "read", "rules", "schema", "split"]
