"""What figures were measured on."""

import os
import platform
from typing import Any


def processor_and_cores() -> dict[str, Any]:
    return {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
