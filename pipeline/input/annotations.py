"""What is taken from the files beside a video, or from the columns of its row: captions and spans."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.input import InputConfig
from pipeline.metadata.fields import field_at, read_json, spans_at, texts_of
from pipeline.records import Span

REPLACED_TEXT = "replaced_text"  # with escapes for what UTF-8 cannot encode
UNUSED_FILE = "unused_file"


def loss(name: str, count: int) -> dict[str, int]:
    """A count of a sample's `losses`; none where it is 0."""
    return {name: count} if count else {}


def spans_of(metadata: str, rules: InputConfig) -> tuple[tuple[Span, ...] | None, tuple[str, str] | None]:
    """A sample's spans, None without `input.spans`; and (reason, detail) where they cannot be read."""
    if rules.spans is None:
        return None, None
    try:
        return spans_at(metadata, rules.spans.removeprefix("json:"), rules.spans_unit), None
    except ValueError as error:
        return None, ("bad_spans", f"input.spans: {error}")


def mismatch(captions: Sequence[str], spans: Sequence[Span] | None, rules: InputConfig) -> tuple[str, str] | None:
    """(reason, detail) where each span should have a caption, and there are not as many of both."""
    if rules.captions_of == "sample" or spans is None or len(captions) in (0, len(spans)):
        return None
    return "bad_spans", f"input.captions_of: span needs as many captions as spans, got {len(captions)} and {len(spans)}"


def captions_of(files: Mapping[str, str], tree: Any, rules: InputConfig) -> tuple[str, ...]:
    """The captions of the first source that has any: a file, or a field of the JSON, which may list several.

    Args:
        files: the contents of the sample's files, by extension.
        tree: the values of its JSON.
    """
    for source in rules.caption:
        suffix, _, path = source.partition(":")
        if path:
            value = field_at(tree if suffix == "json" else read_json(files.get(suffix, "")), path)
            found = texts_of(value, null="" if rules.captions_of == "span" else None)
        else:
            found = (files[suffix],) if files.get(suffix) else ()
        if any(found):
            return found
    return ()
