"""Norms compiled by PyTorch's inductor: a few kernels for each, instead of some for every frame.

It does not compile the rest: convolutions are the libraries' own, and what stands between them is little.
"""

from torch import nn

from encoder.norms import ByTorch, GroupNorm, RmsNorm

MOST_SHAPES = 10_000  # torch's own limit is 8, and beyond it there would be an error: every norm and picture is one


def compile_norms(module: nn.Module) -> None:
    """Makes the norms of a model compile themselves when they first meet a shape, which takes seconds for each.

    Shapes are never generalised: which kernels a norm has must not depend on the shapes that came before.

    Raises:
        ValueError: the model has no norms of ours.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, GroupNorm | RmsNorm)]
    if not norms:
        raise ValueError(
            "compile: true is for norms of native encoders, and diffusers' VAEs have others: set it to false"
        )
    import torch._dynamo.config as limits  # takes a second to import: only who compiles pays

    limits.cache_size_limit = limits.accumulated_cache_size_limit = MOST_SHAPES
    for norm in norms:
        if isinstance(norm, RmsNorm) or isinstance(norm.computed_by, ByTorch):  # what is in C is compiled
            norm.compile(dynamic=False, fullgraph=True)
