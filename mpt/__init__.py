"""Train Keras models in mixed precision, and see what the numbers do."""

__version__ = "0.1.0"
