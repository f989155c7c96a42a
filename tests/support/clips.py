"""Headers of videos and rules for clips, made up."""

from array import array

from hypothesis import strategies as st

from encoder import LatentSpec
from pipeline.clips.plan import ClipRules
from pipeline.config.latents import ClipConfig
from pipeline.records import VideoHeader

SPEC = LatentSpec("cogvideox", latent_channels=16, temporal_ratio=4, spatial_ratio=8)
RULES = ClipRules(SPEC, chunk_frames=8)


def header_of(
    frames: int, fps: float = 25, width_px: int = 640, height_px: int = 480, sample_aspect: float = 1.0
) -> VideoHeader:
    return header_at([index / fps for index in range(frames)], width_px, height_px, sample_aspect)


def header_at(
    pts_seconds: list[float], width_px: int = 640, height_px: int = 480, sample_aspect: float = 1.0
) -> VideoHeader:
    return VideoHeader(
        container="mov",
        codec="h264",
        width_px=width_px,
        height_px=height_px,
        sample_aspect=sample_aspect,
        rotation_degrees=0,
        pts_seconds=array("d", pts_seconds),
        duration_seconds=pts_seconds[-1] + 0.04,
    )


def clip_of(**values: object) -> ClipConfig:
    return ClipConfig.model_validate({"buckets": ["96x160"], **values})


@st.composite
def headers(draw: st.DrawFn) -> VideoHeader:
    gaps_seconds = draw(st.lists(st.floats(0.001, 0.5), max_size=80))
    pts_seconds = [0.0]
    for gap_seconds in gaps_seconds:
        pts_seconds.append(pts_seconds[-1] + gap_seconds)
    sizes_px = st.integers(1, 4000)
    return header_at(pts_seconds, draw(sizes_px), draw(sizes_px), draw(st.sampled_from([0.5, 1.0, 64 / 45])))


clip_configs = st.builds(
    clip_of,
    frames=st.integers(0, 12).map(lambda k: 1 + 4 * k),
    fps=st.none() | st.floats(0.5, 60),
    window=st.sampled_from(["head", "center", "full", "uniform:3", "uniform:40", "slide:1", "slide:7"]),
    buckets=st.sampled_from([["96x160"], ["480x720", "720x480"], ["16x16", "96x96", "64x512"]]),
    tail=st.sampled_from(["trim", "drop"]),
    upscale=st.booleans(),
)
