def build(*, batch_size: int, seed: int, validation_fraction: float | None = None,
          shuffle: bool = True, path: str | None = None, examples: int | None = None,
          name: str = "fashion_mnist"): ...
# validation_fraction null: the official test files are the validation set
