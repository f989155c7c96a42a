"""How a clip is cut into the chunks that go through the encoder: pure functions of frame counts, without torch."""

from typing import get_args

from encoder.spec import ChunkPlan


def check_chunk_frames(chunk_frames: int, temporal_ratio: int) -> None:
    """Raises ValueError if chunks of this size would split the frames of one latent frame."""
    if chunk_frames < 1 or chunk_frames % temporal_ratio:
        raise ValueError(
            f"chunk_frames is {chunk_frames}, but it must be a multiple of the encoder's temporal ratio: "
            f"{temporal_ratio}, {2 * temporal_ratio}, {3 * temporal_ratio}, …"
        )


def chunk_plan(frames: int, chunk_frames: int, temporal_ratio: int = 4, plan: str = "diffusers") -> tuple[int, ...]:
    """The frames of each chunk of a clip. The first chunk includes the clip's first frame, which is one latent frame.

    Args:
        frames: frames of the clip, a legal count: 1 + k * temporal_ratio.
        chunk_frames: frames of a chunk, a multiple of the ratio.
        plan: `diffusers` folds the remainder into the first chunk, which then has up to twice as many frames;
            `even` makes as few chunks as possible, of nearly equal size, none over chunk_frames + 1.

    Raises:
        ValueError: `frames` is not a legal count, `chunk_frames` not a multiple of the ratio, or `plan` unknown.
    """
    check_chunk_frames(chunk_frames, temporal_ratio)
    if frames < 1 or (frames - 1) % temporal_ratio:
        raise ValueError(f"{frames} frames cannot be cut into chunks: a clip has 1 + {temporal_ratio}k frames")
    if plan == "diffusers":
        return _remainder_first(frames, chunk_frames)
    if plan == "even":
        return _even(frames, chunk_frames, temporal_ratio)
    raise ValueError(f"chunk_plan is {plan!r}, but it must be one of: {', '.join(get_args(ChunkPlan))}")


def causal_plan(frames: int, temporal_ratio: int) -> tuple[int, ...]:
    """The smallest chunks, of one latent frame each: 1, 4, 4, …"""
    return (1, *[temporal_ratio] * ((frames - 1) // temporal_ratio))


def segments_plan(frames: int, first_frames: int, segment_frames: int) -> tuple[int, ...]:
    """A chunk of `first_frames`, then chunks of `segment_frames`, the last with what is left."""
    first = min(frames, first_frames)
    whole, rest = divmod(frames - first, segment_frames)
    return (first, *[segment_frames] * whole, *([rest] if rest else []))


def _remainder_first(frames: int, chunk_frames: int) -> tuple[int, ...]:
    if frames < chunk_frames:
        return (frames,)
    return (chunk_frames + frames % chunk_frames, *[chunk_frames] * (frames // chunk_frames - 1))


def _even(frames: int, chunk_frames: int, temporal_ratio: int) -> tuple[int, ...]:
    steps = (frames - 1) // temporal_ratio  # latent frames after the first, to be shared among the chunks
    chunks = max(1, -(-(frames - 1) // chunk_frames))
    sizes = [(steps // chunks + (i < steps % chunks)) * temporal_ratio for i in range(chunks)]
    return (1 + sizes[0], *sizes[1:])
