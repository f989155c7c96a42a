"""Frames, windows, buckets and geometry are chosen as documented, for every video that could come."""

import pytest
from hypothesis import given
from support.clips import RULES, SPEC, clip_configs, clip_of, header_at, header_of, headers

from pipeline.clips.frames import nearest_frame
from pipeline.clips.geometry import choose_geometry
from pipeline.clips.plan import check_clip_config, plan_clips
from pipeline.config.latents import ClipConfig
from pipeline.errors import ConfigError, SampleError, ShardError
from pipeline.records import ClipSpec, VideoHeader


def starts(clips: tuple[ClipSpec, ...]) -> list[int]:
    return [clip.frame_indices[0] for clip in clips]


def test_without_fps_every_frame_is_used_at_the_rate_of_the_source():
    (clip,) = plan_clips(header_of(20, fps=24), clip_of(frames=17, fps=None), RULES)
    assert tuple(clip.frame_indices) == tuple(range(17))
    assert clip.fps == pytest.approx(24)
    assert clip.chunk_frames == (17,)


def test_a_lower_rate_takes_the_frame_nearest_to_each_point_of_time():
    (clip,) = plan_clips(header_of(60, fps=30), clip_of(frames=9, fps=8), RULES)
    assert tuple(clip.frame_indices) == (
        0,
        4,
        7,
        11,
        15,
        19,
        22,
        26,
        30,
    )  # 3.75 frames apart; 7.5 and 22.5 tie: the earlier
    assert clip.fps == 8


def test_frames_are_chosen_by_time_where_the_rate_varies():
    pts_seconds = [0.0, 0.01, 0.02, 0.03, 0.5, 0.51, 1.0, 1.49, 2.01]
    (clip,) = plan_clips(header_at(pts_seconds), clip_of(frames=5, fps=2), RULES)
    assert tuple(clip.frame_indices) == (0, 4, 6, 7, 8)
    assert [pts_seconds[index] for index in clip.frame_indices] == [0.0, 0.5, 1.0, 1.49, 2.01]


def test_a_last_time_that_the_container_rounded_down_still_counts():
    assert len(plan_clips(header_at([0.0, 0.333, 0.667, 1.0, 1.3332]), clip_of(frames=5, fps=3), RULES)) == 1


@pytest.mark.parametrize(("time_seconds", "index"), [(-1, 0), (0, 0), (0.5, 0), (0.500002, 1), (1.2, 1), (9, 2)])
def test_of_two_frames_equally_near_the_earlier_is_taken(time_seconds: float, index: int):
    assert nearest_frame([0.0, 1.0, 2.0], time_seconds, 0, 3) == index


def test_a_source_slower_than_the_rate_asked_for_is_rejected_with_both_rates():
    with pytest.raises(SampleError, match=r"fps_too_low: 7\.500 .* 8") as caught:
        plan_clips(header_of(100, fps=7.5), clip_of(frames=9, fps=8), RULES)
    assert caught.value.why.stage == "clip"


def test_a_source_barely_slower_repeats_a_frame_now_and_then():
    (clip,) = plan_clips(header_of(60, fps=23.4), clip_of(frames=49, fps=24), RULES)
    assert 0 < 49 - len(set(clip.frame_indices)) <= 2


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("head", [0]),
        ("center", [12]),
        ("uniform:1", [12]),
        ("uniform:2", [0, 25]),
        ("uniform:4", [0, 8, 16, 25]),
        ("slide:10", [0, 10, 20]),
        ("slide:25", [0, 25]),
        ("slide:26", [0]),
    ],
)
def test_windows_start_where_documented(window: str, expected: list[int]):
    clips = plan_clips(header_of(30), clip_of(frames=5, fps=None, window=window), RULES)
    assert starts(clips) == expected
    assert [clip.window_index for clip in clips] == list(range(len(clips)))


def test_a_video_too_short_for_many_windows_gives_the_distinct_ones():
    assert starts(plan_clips(header_of(7), clip_of(frames=5, fps=None, window="uniform:9"), RULES)) == [0, 1, 2]
    assert starts(plan_clips(header_of(5), clip_of(frames=5, fps=None, window="uniform:9"), RULES)) == [0]


def test_a_video_shorter_than_a_clip_is_rejected_with_both_lengths():
    with pytest.raises(SampleError, match=r"too_short: 16 frames \(2\.00 s\).*49 \(6\.12 s\)"):
        plan_clips(header_of(16, fps=8), clip_of(frames=49, fps=8), RULES)


def test_a_whole_video_loses_its_last_frames_to_be_legal():
    (clip,) = plan_clips(header_of(75), clip_of(frames="full", fps=None), RULES)
    assert tuple(clip.frame_indices) == tuple(range(73))
    assert sum(clip.chunk_frames) == 73


def test_window_full_is_the_whole_video_whatever_the_clip_length():
    (clip,) = plan_clips(header_of(21), clip_of(frames=9, fps=None, window="full"), RULES)
    assert clip.frames == 21


def test_an_illegal_whole_video_can_be_rejected_or_stop_the_run():
    with pytest.raises(SampleError, match="illegal_frame_count: 75 frames"):
        plan_clips(header_of(75), clip_of(frames="full", fps=None, tail="drop"), RULES)
    with pytest.raises(ShardError, match=r"75 frames.*trim to cut"):
        plan_clips(header_of(75), clip_of(frames="full", fps=None, tail="error"), RULES)
    assert plan_clips(header_of(73), clip_of(frames="full", fps=None, tail="error"), RULES)[0].frames == 73


def test_a_single_frame_is_a_clip_of_one_frame():
    (clip,) = plan_clips(header_of(1), clip_of(frames=1, fps=8), RULES)
    assert (tuple(clip.frame_indices), clip.chunk_frames) == ((0,), (1,))


def test_the_bucket_nearest_in_aspect_ratio_is_covered_and_cropped_at_the_centre():
    clip = clip_of(buckets=["480x720", "720x480", "480x480"])
    landscape = choose_geometry(header_of(1, width_px=1280, height_px=720), clip)
    assert (landscape.resized_width_px, landscape.resized_height_px) == (853, 480)
    assert (landscape.left_px, landscape.top_px, landscape.width_px, landscape.height_px) == (66, 0, 720, 480)
    portrait = choose_geometry(header_of(1, width_px=1080, height_px=1920), clip)
    assert (portrait.height_px, portrait.width_px) == (720, 480)
    assert portrait.resized_width_px == 480


def test_a_video_of_bucket_size_is_not_resized():
    geometry = choose_geometry(header_of(1, width_px=720, height_px=480), clip_of(buckets=["480x720"]))
    assert (geometry.resized_width_px, geometry.resized_height_px) == (720, 480)
    assert (geometry.left_px, geometry.top_px) == (0, 0)


def test_wide_pixels_are_made_square():
    geometry = choose_geometry(
        header_of(1, width_px=720, height_px=576, sample_aspect=64 / 45), clip_of(buckets=["288x512"])
    )
    assert (geometry.resized_width_px, geometry.resized_height_px, geometry.left_px) == (512, 288, 0)


def test_nothing_is_upscaled_unless_asked():
    small = header_of(1, width_px=320, height_px=180)
    with pytest.raises(SampleError, match=r"too_small: 180x320.*480x720.*clip\.upscale: true"):
        choose_geometry(small, clip_of(buckets=["480x720"]))
    assert choose_geometry(small, clip_of(buckets=["480x720"], upscale=True)).width_px == 720
    assert choose_geometry(small, clip_of(buckets=["360x640", "96x96"])).width_px == 96  # far, but it fits


def test_buckets_equally_near_are_chosen_by_size_and_not_by_their_order():
    square = header_of(1, width_px=1000, height_px=1000)
    for buckets in (["480x720", "720x480"], ["720x480", "480x720"]):
        assert choose_geometry(square, clip_of(buckets=buckets)).width_px == 480
    sizes = ["240x240", "2000x2000", "480x480"]
    assert choose_geometry(square, clip_of(buckets=sizes)).width_px == 480
    assert choose_geometry(square, clip_of(buckets=sizes, upscale=True)).width_px == 480
    assert choose_geometry(square, clip_of(buckets=["4000x4000", "2000x2000"], upscale=True)).width_px == 2000


def test_a_clip_length_the_encoder_cannot_take_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"clip\.frames: 48 does not fit cogvideox.*1 \+ 4\*k: use 45 or 49"):
        check_clip_config(clip_of(frames=48), SPEC)
    check_clip_config(clip_of(frames=49), SPEC)
    check_clip_config(clip_of(frames="full"), SPEC)


def test_a_bucket_the_encoder_cannot_take_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"clip\.buckets: 270x480 .*multiples of 8: use 272x480"):
        check_clip_config(clip_of(buckets=["480x720", "270x480"]), SPEC)
    with pytest.raises(ConfigError, match="use 8x8"):
        check_clip_config(clip_of(buckets=["1x3"]), SPEC)


def test_a_bucket_may_have_its_own_frames_and_the_longest_that_the_video_fills_is_taken():
    clip = clip_of(frames=9, fps=None, buckets=["96x160x33", "96x160x17", "96x96"])
    for available, frames in ((40, 33), (33, 33), (32, 17), (17, 17)):
        assert [spec.frames for spec in plan_clips(header_of(available, width_px=800), clip, RULES)] == [frames]
    with pytest.raises(SampleError, match=r"16 frames .* a clip needs 17"):
        plan_clips(header_of(16, width_px=800), clip, RULES)
    assert plan_clips(header_of(9, width_px=480), clip, RULES)[0].frames == 9  # 96x96 has clip.frames


def test_frames_of_a_bucket_the_encoder_cannot_take_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"clip\.buckets: 96x160x32: 32 does not fit .* use 29 or 33"):
        check_clip_config(clip_of(buckets=["96x160", "96x160x32"]), SPEC)
    with pytest.raises(ValueError, match="clips of whole videos have no fixed length"):
        clip_of(frames="full", buckets=["96x160x33"])
    check_clip_config(clip_of(frames=48, buckets=["96x160x33"]), SPEC)  # no bucket has 48


def plan_or_reason(header: VideoHeader, clip: ClipConfig) -> tuple[tuple[ClipSpec, ...], str]:
    try:
        return plan_clips(header, clip, RULES), ""
    except SampleError as error:
        return (), error.why.code


@given(headers(), clip_configs)
def test_every_video_gives_clips_that_exist_or_a_reason(header: VideoHeader, clip: ClipConfig):
    clips, reason = plan_or_reason(header, clip)
    if reason:
        assert reason in ("clip/fps_too_low", "clip/too_short", "clip/too_small", "clip/illegal_frame_count")
        return
    assert [spec.window_index for spec in clips] == list(range(len(clips)))
    assert len({tuple(spec.frame_indices) for spec in clips}) == len(clips) > 0
    for spec in clips:
        assert list(spec.frame_indices) == sorted(spec.frame_indices)
        assert spec.frame_indices[0] >= 0
        assert spec.frame_indices[-1] < header.frames
        assert SPEC.is_legal_frames(spec.frames)
        assert sum(spec.chunk_frames) == spec.frames
        assert clip.whole_video or spec.frames == clip.frames


@given(headers(), clip_configs)
def test_frames_on_a_grid_are_never_further_off_than_their_neighbours(header: VideoHeader, clip: ClipConfig):
    clips, _ = plan_or_reason(header, clip.model_copy(update={"fps": 5.0, "window": "full", "tail": "trim"}))
    for point, pts_seconds in enumerate(header.pts_seconds[index] for clip in clips for index in clip.frame_indices):
        nearest_seconds = min(abs(other - point / 5) for other in header.pts_seconds)
        assert abs(pts_seconds - point / 5) <= nearest_seconds + 2e-6


@given(headers(), clip_configs)
def test_the_crop_lies_inside_the_resized_picture_and_keeps_proportions(header: VideoHeader, clip: ClipConfig):
    clips, _ = plan_or_reason(header, clip.model_copy(update={"fps": None, "window": "full", "tail": "trim"}))
    if not clips:
        assert not clip.upscale
        return
    geometry = clips[0].geometry
    assert (geometry.height_px, geometry.width_px) in clip.bucket_sizes_px
    assert 0 <= geometry.left_px <= geometry.resized_width_px - geometry.width_px
    assert 0 <= geometry.top_px <= geometry.resized_height_px - geometry.height_px
    shown_width_px = header.width_px * header.sample_aspect
    scale = max(geometry.width_px / shown_width_px, geometry.height_px / header.height_px)
    assert geometry.resized_width_px == pytest.approx(shown_width_px * scale, abs=0.51)
    assert geometry.resized_height_px == pytest.approx(header.height_px * scale, abs=0.51)
    if not clip.upscale:
        assert geometry.resized_width_px <= header.width_px
        assert geometry.resized_height_px <= header.height_px
