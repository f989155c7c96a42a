"""Norms with swish in Triton, for activations in channels-last order: no atomics, the same bits on every run.

Group norm takes three kernels: mean and sum of squared deviations of each channel over tiles of pixels; these merged by
group in a fixed order; then the normalised values, written behind the room for past frames. Squares are of deviations,
so that nothing cancels. `extra` is the bias of the convolution before, which is added as values are read. `kept` takes
the last frames once more, as the past of the next chunk.
"""

# mypy: ignore-errors
import triton
import triton.language as tl


@triton.jit
def channel_moments(x, extra, mean_out, m2_out, pixels, channels, frames, stride_b, stride_t,
                    HAS_EXTRA: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, LOOPS: tl.constexpr):  # fmt: skip
    """Of the pixels of program (tile, item * frames + frame): mean and sum of squared deviations of each channel."""
    tile, item_frame = tl.program_id(0), tl.program_id(1)
    base = x + _frame(frames, stride_b, stride_t)
    columns = tl.arange(0, C)
    inside_c = columns < channels
    added = (
        tl.load(extra + columns, mask=inside_c, other=0.0).to(tl.float32) if HAS_EXTRA else tl.zeros((C,), tl.float32)
    )
    mean, m2 = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    count = 0.0
    for loop in range(LOOPS):
        rows = (tile * LOOPS + loop) * ROWS + tl.arange(0, ROWS)
        inside = (rows < pixels)[:, None] & inside_c[None, :]
        n = tl.minimum(tl.maximum(pixels - (tile * LOOPS + loop) * ROWS, 0), ROWS).to(tl.float32)
        values = tl.load(base + rows[:, None].to(tl.int64) * channels + columns[None, :], mask=inside, other=0.0)
        values = tl.where(inside, values.to(tl.float32) + added[None, :], 0.0)
        own_mean = tl.sum(values, 0) / tl.maximum(n, 1.0)
        deviations = tl.where(inside, values - own_mean[None, :], 0.0)
        total = tl.maximum(count + n, 1.0)
        delta = own_mean - mean
        m2 += tl.sum(deviations * deviations, 0) + delta * delta * (count * n / total)
        mean += delta * (n / total)
        count += n
    at = (item_frame * tl.num_programs(0) + tile).to(tl.int64) * channels + columns
    tl.store(mean_out + at, mean, mask=inside_c)
    tl.store(m2_out + at, m2, mask=inside_c)


@triton.jit
def merge_groups(means, m2s, mean_out, variance_out, parts, tiles, pixels, channels, group_channels,
                 PART_PIXELS: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Of program (scope, group): mean and variance of its `parts` tiles' channels, in two passes in a fixed order."""
    scope, group = tl.program_id(0), tl.program_id(1)
    columns = tl.arange(0, G)
    base = scope.to(tl.int64) * parts * channels + group * group_channels
    values = (parts // tiles).to(tl.float32) * pixels * group_channels
    weighted = tl.zeros((BLOCK, G), tl.float32)
    for start in range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)
        inside = (part < parts)[:, None] & (columns < group_channels)[None, :]
        n = tl.minimum(pixels - (part % tiles) * PART_PIXELS, PART_PIXELS).to(tl.float32)[:, None]
        at = base + part[:, None].to(tl.int64) * channels + columns[None, :]
        weighted += n * tl.load(means + at, mask=inside, other=0.0)
    mean = tl.sum(tl.sum(weighted, 0), 0) / values
    squares = tl.zeros((BLOCK, G), tl.float32)
    for start in range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)
        inside = (part < parts)[:, None] & (columns < group_channels)[None, :]
        n = tl.minimum(pixels - (part % tiles) * PART_PIXELS, PART_PIXELS).to(tl.float32)[:, None]
        at = base + part[:, None].to(tl.int64) * channels + columns[None, :]
        delta = tl.load(means + at, mask=inside, other=0.0) - mean
        squares += tl.where(inside, tl.load(m2s + at, mask=inside, other=0.0) + n * delta * delta, 0.0)
    at = scope * tl.num_programs(1) + group
    tl.store(mean_out + at, mean)
    tl.store(variance_out + at, tl.sum(tl.sum(squares, 0), 0) / values)


@triton.jit
def group_normalize(x, extra, mean, variance, weight, bias, out, kept, pixels, channels, frames, groups, scope_frames,
                    eps, stride_b, stride_t, out_stride_b, out_stride_t, KEPT: tl.constexpr, HAS_EXTRA: tl.constexpr,
                    SWISH: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Of program (tile, item * frames + frame): normalised by the moments of its scope of `scope_frames` frames."""
    at, inside, columns, inside_c = _tile(pixels, channels, C, ROWS)
    values = _load(x + _frame(frames, stride_b, stride_t), at, inside, extra, columns, inside_c, HAS_EXTRA)
    moments = tl.program_id(1) // scope_frames * groups + columns // (channels // groups)
    spread = tl.load(variance + moments, mask=inside_c, other=1.0) + eps
    scale = tl.load(weight + columns, mask=inside_c, other=0.0).to(tl.float32) / tl.sqrt_rn(spread)
    centered = values - tl.load(mean + moments, mask=inside_c, other=0.0)[None, :]
    normed = centered * scale[None, :] + tl.load(bias + columns, mask=inside_c, other=0.0).to(tl.float32)[None, :]
    _store(out, kept, at, inside, _swish(normed, SWISH), pixels, channels, frames, out_stride_b, out_stride_t, KEPT)


@triton.jit
def rms_normalize(x, extra, weight, out, kept, pixels, channels, frames, factor, stride_b, stride_t, out_stride_b,
                  out_stride_t, KEPT: tl.constexpr, HAS_EXTRA: tl.constexpr, SWISH: tl.constexpr,
                  C: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Of program (tile, item * frames + frame): each pixel's channels by their length, times `factor * weight`."""
    at, inside, columns, inside_c = _tile(pixels, channels, C, ROWS)
    values = _load(x + _frame(frames, stride_b, stride_t), at, inside, extra, columns, inside_c, HAS_EXTRA)
    length = tl.maximum(tl.sqrt_rn(tl.sum(values * values, 1)), 1e-12)
    scale = tl.load(weight + columns, mask=inside_c, other=0.0).to(tl.float32) * factor
    normed = values / length[:, None] * scale[None, :]
    _store(out, kept, at, inside, _swish(normed, SWISH), pixels, channels, frames, out_stride_b, out_stride_t, KEPT)


@triton.jit
def add_residual(x, h, bias, pixels, channels, frames, stride_b, stride_t, h_stride_b, h_stride_t,
                 C: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Of program (tile, item * frames + frame): adds `h` and its bias to `x`."""
    at, inside, columns, inside_c = _tile(pixels, channels, C, ROWS)
    added = _load(h + _frame(frames, h_stride_b, h_stride_t), at, inside, bias, columns, inside_c, True)
    to = x + _frame(frames, stride_b, stride_t) + at
    tl.store(to, tl.load(to, mask=inside, other=0.0).to(tl.float32) + added, mask=inside)


@triton.jit
def _tile(pixels, channels, C: tl.constexpr, ROWS: tl.constexpr):
    """Of the program's tile of pixels: offsets in its frame and which exist, channels and which exist."""
    rows, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, C)
    inside_c = columns < channels
    inside = (rows < pixels)[:, None] & inside_c[None, :]
    return rows[:, None].to(tl.int64) * channels + columns[None, :], inside, columns, inside_c


@triton.jit
def _frame(frames, stride_b, stride_t):
    """Offset of the program's frame."""
    item, frame = tl.program_id(1) // frames, tl.program_id(1) % frames
    return item.to(tl.int64) * stride_b + frame.to(tl.int64) * stride_t


@triton.jit
def _load(x, at, inside, extra, columns, inside_c, HAS_EXTRA: tl.constexpr):
    """A tile in float32, with `extra` of each channel added."""
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_EXTRA:
        values += tl.load(extra + columns, mask=inside_c, other=0.0).to(tl.float32)[None, :]
    return values


@triton.jit
def _store(out, kept, at, inside, values, pixels, channels, frames, stride_b, stride_t, KEPT: tl.constexpr):
    """Writes a tile to its frame of `out`, and where that is one of the last KEPT, to `kept` too, which is dense."""
    tl.store(out + _frame(frames, stride_b, stride_t) + at, values, mask=inside)
    item, frame = tl.program_id(1) // frames, tl.program_id(1) % frames
    if frame >= frames - KEPT:
        kept_frame = item * KEPT + frame - (frames - KEPT)
        tl.store(kept + kept_frame.to(tl.int64) * pixels * channels + at, values, mask=inside)


@triton.jit
def _swish(values, SWISH: tl.constexpr):
    if SWISH:
        values = values / (1.0 + tl.exp(-values))
    return values
