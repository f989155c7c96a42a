"""From bytes to text: one rule for captions, JSON and tables. What is not text is an error, never a replaced character.

A byte order mark says the encoding and is dropped; text without one is UTF-8, or UTF-16 where its NUL bytes show that.
"""

import codecs
import re

MARKS = (  # that of UTF-32 begins as that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
HEAD_BYTES = 4096  # enough to tell the encoding
HALF_PAIR = re.compile("[\ud800-\udfff]")


class UndecodableError(ValueError):
    """Bytes that are not text in the encoding that they seem to have."""


def encoding_of(head: bytes) -> tuple[str, int]:
    """The encoding of a text by its first bytes, and how many of them are its byte order mark."""
    for mark, encoding in MARKS:
        if head.startswith(mark):
            return encoding, len(mark)
    return _without_mark(head), 0


def _without_mark(head: bytes) -> str:
    """UTF-16 where every other byte, and no byte between them, is NUL at least twice: as in ASCII letters."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(head) % 2 == 0 and max(even, odd) >= 2 and min(even, odd) == 0:
        return "utf-16-be" if even else "utf-16-le"
    return "utf-8"


def decode_text(data: bytes) -> str:
    """The text of a file, without its byte order mark and the line ends at its end.

    Raises:
        UndecodableError: it says at which byte.
    """
    encoding, mark_bytes = encoding_of(data[:HEAD_BYTES])
    return decoded(data[mark_bytes:], encoding, mark_bytes).rstrip("\r\n")


def decoded(data: bytes, encoding: str, first_byte: int = 0) -> str:
    """The text of some bytes in an encoding, as they stand. Raises UndecodableError as `decode_text`.

    A NUL is not text: where it is left, the encoding was not recognised.
    """
    try:
        text = data.decode(encoding)
        if (at := text.find("\0")) < 0:
            return text
        at = len(text[:at].encode(encoding))
    except UnicodeDecodeError as error:
        at = error.start
    raise UndecodableError(
        f"byte {first_byte + at:,} (0x{data[at]:02x}) is not {encoding.upper()} text: save it as UTF-8"
    )


def printable(text: str) -> str:
    """The text with escapes for what UTF-8 cannot encode: names in another encoding, halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_printable(text: str) -> bool:
    """Whether `printable` leaves the text as it is."""
    return HALF_PAIR.search(text) is None
