"""A trained model in a format for serving, held against the Keras model it was made of."""

from mpt.exporting.export import run

__all__ = ["run"]
