def build(*, batch_size: int, seed: int, function, kwargs: dict | None = None,
          validation_fraction: float | None = None, shuffle: bool = False,
          shape: tuple[int, ...] | None = None, classes: int | None = None,
          examples: int | None = None, batched: bool | None = None, name: str = "python"): ...
