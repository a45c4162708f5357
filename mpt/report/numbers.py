"""Numbers as people read them."""

import math


def number(value: float) -> str:
    """Four significant digits; whole numbers up to 16 million in full."""
    value = float(value)
    if math.isfinite(value) and value == int(value) and abs(value) <= 2**24:
        return str(int(value))
    return f"{value:.4g}"


def power_of_two(value: float | None) -> str:
    """ "2^15" for 32768; other numbers as `number` has them, and "-" for None."""
    if value is None:
        return "-"
    exponent = math.log2(value) if value > 0 else math.nan
    return f"2^{exponent:.0f}" if exponent.is_integer() else number(value)


def rate(value: float) -> str:
    """A speed: whole from 10 up, else two significant digits."""
    return f"{value:.0f}" if abs(value) >= 10 or not math.isfinite(value) else f"{value:.2g}"


def size(value: float) -> str:
    """Bytes in the unit, of powers of 1024, that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def count(value: float, unit: str) -> str:
    """A large count with a prefix of powers of 1000: 4.2e10 FLOP/s is "42 GFLOP/s"."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} P{unit}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
