def build(*, batch_size: int, seed: int, validation_fraction: float = 0.2, shuffle: bool = True,
          shape: tuple[int, ...] = (28, 28, 1), classes: int | None = 10, examples: int = 2048,
          vocabulary: int | None = None, length: int | None = None, outputs: int = 1,
          name: str = "synthetic"): ...
# vocabulary and length (both) make token sequences: x and y (next token) int32 (length,)
