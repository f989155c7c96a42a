"""A safetensors file of one tensor. The library gives metadata another order each time, and so other bytes."""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

ALIGNED_BYTES = 8


def tensor_file(name: str, tensor: Tensor, metadata: Mapping[str, str] | None = None) -> bytes:
    """The file with a tensor in bfloat16: the header's length, the header as JSON, the values in row-major order."""
    data = tensor.bfloat16().contiguous().view(torch.int16).numpy().astype("<i2").tobytes()
    header = {name: {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [0, len(data)]}}
    text = json.dumps(({"__metadata__": dict(metadata)} if metadata else {}) | header).encode()
    text += b" " * (-len(text) % ALIGNED_BYTES)
    return len(text).to_bytes(8, "little") + text + data
