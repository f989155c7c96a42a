"""Images become one-frame clips: upright, in sRGB, on black; what is no whole still image is refused by name."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.clips import SPEC
from support.images import EXACT, FORMATS, SRGB, animated, drawn, file_of
from support.paths import SHARED

from pipeline.clips.plan import ClipRules
from pipeline.config.input import FilterConfig
from pipeline.config.latents import ClipConfig
from pipeline.config.runtime import LimitsConfig
from pipeline.errors import SampleError
from pipeline.records import Chunk, DecodeItem, Failure, Opened, Uint8Frames, VideoHeader
from pipeline.video.decode import decode_sample
from pipeline.video.images.image import MissingFormatError, open_image
from pipeline.video.memory_limit import bounded
from pipeline.video.pixels.tonemap import to_sdr
from pipeline.video.signatures import image_format_of
from pipeline.video.synthetic.videos import draw_frame, make_video

RULES = ClipRules(SPEC, chunk_frames=8, images=True)
BUCKETS = ("96x160x1", "160x96x1", "96x160x5")
LOSS = {"jpeg": 4, "png": 0, "webp": 0, "avif": 4}  # levels, at the best quality
SRGB_COLORANTS = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))  # XYZ for D50
WHITE = (0.9642, 1.0, 0.8249)
HDR = (9, 16)  # BT.2020 and PQ, by the numbers of H.273


def decode(
    data: bytes, strict: bool = False, wanted: str | None = None, limits: LimitsConfig | None = None, **clip: object
) -> list[DecodeItem]:
    config = ClipConfig.model_validate({"frames": 5, "fps": None, "buckets": BUCKETS, **clip})
    items = decode_sample(data, config, limits or LimitsConfig(), strict, RULES, FilterConfig(video=wanted))
    return [item for item in items if item is not None]


def picture_of(data: bytes, strict: bool = True, **clip: object) -> Uint8Frames:
    """`h w c` of the one frame of the one clip."""
    opened, chunk = decode(data, strict, **clip)
    assert isinstance(opened, Opened)
    assert isinstance(chunk, Chunk)
    assert len(chunk.frames) == opened.clips[0].frames == 1
    return chunk.frames[0]


def header_of(data: bytes) -> VideoHeader:
    opened = decode(data)[0]
    assert isinstance(opened, Opened), opened
    return opened.header


def refused(data: bytes, strict: bool = False, **options: Any) -> str:
    failure = decode(data, strict, **options)[-1]
    assert isinstance(failure, Failure)
    assert "object at" not in failure.why.detail, "the same file is refused in the same words"
    return failure.why.code


def difference(left: Any, right: Any) -> int:
    return int(np.abs(np.asarray(left).astype(int) - np.asarray(right).astype(int)).max())


def profile(space: bytes, gamma: float, colorants: tuple[tuple[float, ...], ...] = SRGB_COLORANTS) -> bytes:
    """An ICC profile of RGB or GRAY pixels whose light is their value to the power `gamma`."""

    def fixed(values: tuple[float, ...]) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + bytes(2)
    tags = [(b"wtpt", b"XYZ " + bytes(4) + fixed(WHITE))]
    if space == b"GRAY":
        tags += [(b"kTRC", curve)]
    else:
        tags += [
            (name + b"XYZ", b"XYZ " + bytes(4) + fixed(xyz))
            for name, xyz in zip((b"r", b"g", b"b"), colorants, strict=True)
        ]
        tags += [(name + b"TRC", curve) for name in (b"r", b"g", b"b")]
    tags += [(b"desc", b"desc" + struct.pack(">II", 0, 2) + b"a\0" + bytes(78))]
    at, table, content = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, value in tags:
        table += name + struct.pack(">II", at + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s12s4s", 0, bytes(4), 0x02100000, b"mntr", space, b"XYZ ", bytes(12), b"acsp")
    head = head.ljust(68, b"\0") + fixed(WHITE)
    whole = head.ljust(128, b"\0") + table + content
    return struct.pack(">I", len(whole)) + whole[4:]


def srgb_code(light: Any) -> Any:
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def png(pixels: Any, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits, which Pillow does not write in colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


@pytest.mark.parametrize("format_", FORMATS)
def test_an_image_is_a_clip_of_one_frame(format_: str) -> None:
    data = file_of(drawn(), format_)
    header = header_of(data)
    assert (header.media_type, header.container, header.codec, header.frames) == ("image", format_, format_, 1)
    assert (header.width_px, header.height_px, header.has_alpha, header.pixel_format) == (160, 96, False, "RGB")
    assert difference(picture_of(data), drawn()) <= LOSS[format_]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", FORMATS)
def test_a_picture_is_shown_as_its_exif_says(format_: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(drawn(), format_, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    header, picture = header_of(data), picture_of(data)
    assert (header.width_px, header.height_px) == upright.size == picture.shape[1::-1]
    assert difference(picture, upright.convert("RGB")) == 0
    assert (difference(picture[:90, :90], drawn()[:90, :90]) > 50) == (orientation > 1)


def test_exif_that_cannot_be_read_says_nothing() -> None:
    assert difference(picture_of(file_of(drawn(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")), drawn()) == 0
    assert difference(picture_of(file_of(drawn(), exif=b"not at all EXIF")), drawn()) == 0


def test_an_image_is_resized_as_a_frame_of_a_video_is() -> None:
    video = make_video(1, 8, 250, 180, container="matroska", codec="ffv1", pix_fmt="bgr0")
    of_video = decode(video, buckets=["96x160x1", "96x160"], frames=1)[-1]
    assert isinstance(of_video, Chunk)
    assert difference(of_video.frames[0], picture_of(file_of(draw_frame(0, 250, 180)))) == 0


def with_alpha(mode: str) -> "Image.Image":
    opacity = Image.fromarray(drawn()[..., 0] + 40)
    return Image.merge(mode, (*Image.fromarray(drawn()).convert(mode[:-1]).split(), opacity))


@pytest.mark.parametrize(("format_", "mode"), [("png", "RGBA"), ("png", "LA"), ("webp", "RGBA"), ("avif", "RGBA")])
def test_transparent_areas_are_shown_on_black(format_: str, mode: str) -> None:
    image_ = with_alpha(mode)
    data = file_of(image_, format_, **({"exact": True} if format_ == "webp" else {}))
    alpha = np.asarray(image_.getchannel("A"))[..., None] / 255
    colours = np.asarray(image_.convert(mode[:-1]).convert("RGB"))
    assert header_of(data).has_alpha
    assert difference(picture_of(data), np.rint(colours * alpha)) <= LOSS[format_]


def test_colours_of_a_palette_may_be_transparent() -> None:
    image_ = Image.fromarray(drawn()).quantize(16)
    assert difference(picture_of(file_of(image_)), image_.convert("RGB")) == 0
    data = file_of(image_, transparency=bytes(range(0, 256, 16)))
    opacity = 16 * np.asarray(image_)[..., None] / 255
    assert header_of(data).has_alpha
    assert difference(picture_of(data), np.rint(np.asarray(image_.convert("RGB")) * opacity)) == 0
    (index, *_) = np.asarray(image_)[50, 50:51]
    assert picture_of(file_of(image_, transparency=int(index)))[50, 50].tolist() == [0, 0, 0]


def test_bits_greys_and_sixteen_bits_keep_their_brightness() -> None:
    assert (
        difference(
            picture_of(file_of(Image.fromarray(drawn()).convert("1"))),
            Image.fromarray(drawn()).convert("1").convert("RGB"),
        )
        == 0
    )
    grey = np.linspace(0, 65535, 96 * 160).reshape(96, 160).astype(np.uint16)
    expected = np.rint(grey / 257)[..., None].repeat(3, axis=-1)
    assert difference(picture_of(png(grey, 0)), expected) == 0
    clear = picture_of(png(grey, 0, (b"tRNS", struct.pack(">H", grey[50, 50]))))
    assert clear[50, 50].tolist() == [0, 0, 0]
    assert difference(clear[:50], expected[:50]) == 0
    colours = (drawn().astype(np.uint16) << 8) + 127
    assert difference(picture_of(png(colours, 2)), drawn()) <= 1


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.6])
@pytest.mark.parametrize(
    ("space", "format_"), [(b"RGB ", "png"), (b"RGB ", "webp"), (b"GRAY", "png"), (b"RGB ", "avif")]
)
def test_colours_are_those_that_the_profile_means(space: bytes, format_: str, gamma: float) -> None:
    stored = drawn() if space == b"RGB " else drawn()[..., 0]
    data = file_of(stored, format_, icc_profile=profile(space, gamma))
    as_stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert difference(picture_of(data), srgb_code((as_stored / 255) ** gamma)) <= 2
    assert difference(as_stored, srgb_code((as_stored / 255) ** gamma)) > 10


def test_colorants_are_those_of_the_profile() -> None:
    red, green, blue = SRGB_COLORANTS
    data = file_of(drawn(), icc_profile=profile(b"RGB ", 2.2, (green, blue, red)))
    turned = drawn()[..., [2, 0, 1]]  # what is stored first is light of the colour green
    assert difference(picture_of(data), srgb_code((turned / 255) ** 2.2)) <= 2


def test_a_profile_of_srgb_changes_nothing() -> None:
    for picture in (drawn(), with_alpha("RGBA")):
        assert difference(picture_of(file_of(picture, icc_profile=SRGB)), picture_of(file_of(picture))) <= 1


@pytest.mark.parametrize("bad", [b"no profile", SRGB[:200], profile(b"GRAY", 2.2)], ids=["none", "cut", "grey"])
def test_a_profile_that_cannot_be_used_is_passed_over_or_refused_with_strict(bad: bytes) -> None:
    data = file_of(drawn(), icc_profile=bad)
    assert difference(picture_of(data, strict=False), drawn()) == 0
    assert refused(data, strict=True) == "decode/damaged"


def test_inks_are_subtracted() -> None:
    inks = Image.new("CMYK", (160, 96), (255, 0, 0, 0))
    inks.paste((0, 0, 0, 102), (0, 0, 80, 96))
    picture = picture_of(file_of(inks, "jpeg"))
    assert difference(picture[40, 20], [153, 153, 153]) <= 2
    assert difference(picture[40, 140], [0, 255, 255]) <= 2


def test_hdr_is_told_by_what_the_file_states_and_treated_as_that_of_videos() -> None:
    coded = (drawn().astype(np.uint16) << 8) + drawn()
    data = png(coded, 2, (b"cICP", bytes([*HDR, 0, 1])))
    assert refused(data) == "clip/hdr"
    assert header_of(png(coded, 2)).color_transfer == "unknown"
    assert difference(picture_of(data, hdr="keep"), drawn()) == 0
    assert difference(picture_of(data, hdr="tonemap"), to_sdr(coded, "smpte2084", True)) == 0
    avif = bytearray(file_of(drawn(), "avif"))
    assert header_of(bytes(avif)).color_transfer == "iec61966-2-1"
    avif[(at := avif.index(b"colrnclx") + 8) : at + 4] = struct.pack(">HH", *HDR)
    assert refused(bytes(avif)) == "clip/hdr"


@pytest.mark.parametrize("format_", FORMATS)
def test_a_file_that_is_cut_short_anywhere_is_refused(format_: str) -> None:
    data = file_of(drawn(), format_)
    for cut in (5, 9, 40, len(data) // 2, len(data) - 40):  # the last four bytes of a PNG are a checksum of nothing
        assert refused(data[:-cut]) in ("probe/unreadable", "decode/damaged"), cut


def test_a_damaged_png_is_refused_wherever_the_damage_is() -> None:
    data = file_of(drawn())
    for at in range(8, len(data) - 12, 7):
        damaged = bytearray(data)
        damaged[at] ^= 1
        assert refused(bytes(damaged)) in ("probe/unreadable", "decode/damaged", "probe/too_large"), at


@pytest.mark.parametrize("format_", FORMATS)
def test_damage_never_ends_a_run(format_: str) -> None:
    data, rng = file_of(drawn(), format_), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 4):
            damaged[at] = rng.integers(256)
        assert isinstance(decode(bytes(damaged))[-1], Chunk | Failure)


def test_the_size_is_bounded_before_a_pixel_is_decoded() -> None:
    small = LimitsConfig(max_frame_px=160 * 96 - 1)
    for format_ in FORMATS:
        assert refused(file_of(drawn(), format_), limits=small) == "probe/too_large"
    bomb = SHARED / "videos" / "bad" / "bomb_png_30000.png"
    if bomb.exists():
        assert refused(bomb.read_bytes()) == "probe/too_large"


def announcing(width_px: int, height_px: int) -> bytes:
    """A PNG of this size by its header, whose pixels end after a few: room is made for all of them first."""
    data = file_of(drawn())
    header = b"IHDR" + struct.pack(">II", width_px, height_px) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def test_decoding_stays_within_the_memory_of_a_video() -> None:
    data = announcing(60000, 30000)  # 7 GB, which no memory that tests before have freed would hold
    config, limits = ClipConfig(buckets=("96x160x1",)), LimitsConfig(max_frame_px=2_000_000_000)
    items = bounded(decode_sample(data, config, limits, False, RULES), 24 << 20)
    with pytest.raises(MemoryError):
        list(items)


def test_animated_images_are_videos_or_refused_by_name() -> None:
    assert refused(animated("png")) == refused(animated("webp")) == "probe/animated"
    opened, chunk = decode(animated("avif", 7))
    assert isinstance(opened, Opened)
    assert isinstance(chunk, Chunk)
    assert (opened.header.media_type, opened.header.frames, opened.header.mean_fps) == ("video", 7, 10)
    assert difference(chunk.frames[4], drawn(shift=80)) < 80


def test_of_the_pictures_in_a_jpeg_the_first_is_taken() -> None:
    first, preview = Image.fromarray(drawn()), Image.fromarray(drawn(80, 48))
    file = io.BytesIO()
    first.save(file, "MPO", save_all=True, append_images=[preview], **EXACT["jpeg"])
    assert Image.open(file).n_frames == 2  # type: ignore[attr-defined]
    assert difference(picture_of(file.getvalue()), drawn()) <= LOSS["jpeg"]


def test_without_images_an_image_is_no_video_and_the_message_says_what_takes_it() -> None:
    for format_ in ("jpeg", "png", "webp"):
        items = decode_sample(file_of(drawn(), format_), ClipConfig(), LimitsConfig(), False, ClipRules(SPEC, 8))
        (failure,) = items
        assert isinstance(failure, Failure)
        assert failure.why.code == "probe/not_a_video"
        assert "input.image" in failure.why.detail


def test_formats_are_told_by_their_first_bytes() -> None:
    for format_ in FORMATS:
        assert image_format_of(file_of(drawn(), format_)) == format_
        assert image_format_of(file_of(drawn(), format_)[:3]) in (None, "jpeg")
    assert image_format_of(animated("avif")) is None
    assert image_format_of(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") is None
    assert image_format_of(b"") is None


def test_an_image_has_no_times_that_a_filter_could_ask_for() -> None:
    data, clip = file_of(drawn()), ClipConfig(buckets=BUCKETS)
    wanted = FilterConfig(min_seconds=2, min_fps=10)
    assert isinstance(list(decode_sample(data, clip, LimitsConfig(), False, RULES, wanted))[-1], Chunk)
    assert refused(data, wanted="media_type == 'video'") == "filter/video"
    assert refused(data, wanted="source_width > 160 and codec == 'png'") == "filter/video"
    assert len(decode(data, wanted="media_type == 'image' and rotation_degrees == 0")) == 2


def test_a_format_that_pillow_lacks_here_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda _: False)
    with pytest.raises(MissingFormatError, match="without avif"):
        list(decode_sample(file_of(drawn(), "avif"), ClipConfig(buckets=BUCKETS), LimitsConfig(), False, RULES))


def test_a_value_of_exif_that_is_none_leaves_the_picture_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    opened = open_image(file_of(drawn(), exif=exif), "png", LimitsConfig())
    assert (opened.is_mirrored, opened.header.rotation_degrees) == (False, 0)
    with pytest.raises(SampleError, match="probe/unreadable"):
        open_image(b"\x89PNG\r\n\x1a\n", "png", LimitsConfig())
