"""TensorBoard over runs and sweeps."""

from mpt.board.server import serve

__all__ = ["serve"]
