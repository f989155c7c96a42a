"""How a clip is cut into the chunks that go through the encoder one after the other.

It does not encode: pure functions over frame counts, without torch.
"""


def check_chunk_frames(chunk_frames: int, temporal_ratio: int) -> None:
    """Raises ValueError where chunks of this size would split the frames of one latent frame."""
    if chunk_frames < 1 or chunk_frames % temporal_ratio:
        raise ValueError(
            f"chunk_frames is {chunk_frames}, but it must be a multiple of the encoder's temporal ratio: "
            f"{temporal_ratio}, {2 * temporal_ratio}, {3 * temporal_ratio}, …"
        )


def chunk_plan(frames: int, chunk_frames: int, temporal_ratio: int = 4) -> tuple[int, ...]:
    """Frames of each chunk of a clip, as diffusers cuts it: the remainder is folded into the first chunk.

    Args:
        frames: frames of the clip, a legal count: 1 + k * temporal_ratio.
        chunk_frames: frames of every chunk but the first; a clip with fewer is one chunk.

    Raises:
        ValueError: `frames` is no legal count, or `chunk_frames` no multiple of the ratio.
    """
    check_chunk_frames(chunk_frames, temporal_ratio)
    if frames < 1 or (frames - 1) % temporal_ratio:
        raise ValueError(f"{frames} frames cannot be cut into chunks: a clip has 1 + {temporal_ratio}k frames")
    if frames < chunk_frames:
        return (frames,)
    return (chunk_frames + frames % chunk_frames, *[chunk_frames] * (frames // chunk_frames - 1))
