"""Data sources, one module each, with `build(*, batch_size, seed, ...) -> Data`.

TensorFlow is imported inside the functions: a wrong path or label is reported without it.
"""

from mpt.data.pipeline import Data

__all__ = ["Data"]
