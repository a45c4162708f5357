def build(*, batch_size: int, seed: int, path: str, labels: str | None = None,
          validation_fraction: float = 0.2, shuffle: bool = True,
          shape: tuple[int, ...] | None = None, classes: int | None = None,
          examples: int | None = None, scale: float | None = None, name: str = "arrays"): ...
# path: file.npz, a folder with x.npy and y.npy, or x.npy together with labels=y.npy
