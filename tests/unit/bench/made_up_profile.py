"""A profile as `python -m bench.profiles` writes it, of a step of 2 ms."""

from bench import profiles_kinds as kinds


def profile(side):
    return {
        "work": "mlp",
        "policy": "float32",
        "side": side,
        "setting": [],
        "step_ms": 2.0,
        "wall_ms": 2.0,
        "rest": {"ms": 0.5},
        "kinds": {kinds.PRODUCTS: {"ms": 1.5}},
    }
