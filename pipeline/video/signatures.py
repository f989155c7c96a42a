"""The containers and images that we accept, recognised by their first bytes before any decoder sees them.

probe.py makes FFmpeg use the demuxer named here and no other, images/ makes Pillow use the format.
"""

from collections.abc import Callable

from pipeline.errors import SampleError


def _is_mpegts(head: bytes) -> bool:
    """Sync bytes of three packets in a row, of 188 bytes or of 192 with a time before each."""
    return b"\x47\x47\x47" in (head[0:377:188], head[4:389:192])


_SIGNATURES: dict[str, Callable[[bytes], bool]] = {
    "mov": lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"),
    "matroska": lambda head: head[:4] == b"\x1aE\xdf\xa3" and (b"matroska" in head[:64] or b"webm" in head[:64]),
    "avi": lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI ",
    "flv": lambda head: head[:4] == b"FLV\x01",
    "asf": lambda head: head[:16] == bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "mpegts": _is_mpegts,
    "mpeg": lambda head: head[:4] == b"\x00\x00\x01\xba",
    "ogg": lambda head: head[:4] == b"OggS",
    "gif": lambda head: head[:6] in (b"GIF87a", b"GIF89a"),
}


def _is_avif(head: bytes) -> bool:
    """An `ftyp` box with the brand avif; where `avis` comes first it is animated, a video in the container mov."""
    brands = head[8 : int.from_bytes(head[:4], "big")]
    return head[4:8] == b"ftyp" and brands[:4] != b"avis" and b"avif" in brands


_IMAGES: dict[str, Callable[[bytes], bool]] = {
    "jpeg": lambda head: head[:3] == b"\xff\xd8\xff",
    "png": lambda head: head[:8] == b"\x89PNG\r\n\x1a\n",
    "webp": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "avif": _is_avif,
}


def image_format_of(data: bytes) -> str | None:
    """jpeg | png | webp | avif, by the signature; None for anything else."""
    head = data[:1024]
    return next((name for name, matches in _IMAGES.items() if matches(head)), None)


def container_of(video: bytes) -> str:
    """FFmpeg's name of the container, by its signature; only formats that never refer to other files are known.

    Raises:
        SampleError: there are no bytes, or they are not a video that we accept (a playlist, an image, a web page).
    """
    if not video:
        raise SampleError("probe", "empty", "the video has no bytes")
    head = video[:1024]
    for name, matches in _SIGNATURES.items():
        if matches(head):
            return name
    what = f"begins with {head[:16]!r}, not as one of {', '.join(_SIGNATURES)} does"
    hint = "; it is an image, which input.image takes" if image_format_of(video) else ""
    raise SampleError("probe", "not_a_video", what + hint)
