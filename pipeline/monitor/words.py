"""Numbers, bytes and times as people read them, in what is printed and reported."""

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def number(value: float) -> str:
    """About three digits, and all of those before the point: `0.12`, `2.67`, `14.7`, `1,234`."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def size(size_bytes: float) -> str:
    """`1.41 GB`, `312 MB`, `17 bytes`."""
    for unit, name in UNITS:
        if size_bytes >= unit:
            return f"{number(size_bytes / unit)} {name}"
    return f"{size_bytes:,.0f} bytes"


def duration(seconds: float) -> str:
    """`3 h 20 min`, `4 min`, `12 s`."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min"
