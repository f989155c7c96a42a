"""The pipeline from WebDataset shards to Parquet latents.

It offers `load_config`, `prepare` and `execute`, imported on first use: without them neither torch nor Ray is loaded.
Read run.py first, then records.py.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config.load import load_config
    from pipeline.run import execute, prepare

__all__ = ["execute", "load_config", "prepare"]

_MODULES = {"execute": "pipeline.run", "load_config": "pipeline.config.load", "prepare": "pipeline.run"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
