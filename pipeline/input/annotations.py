"""What is taken from the files beside a video, or from the columns of its row: captions and spans."""

from collections.abc import Mapping

from pipeline.config.input import InputConfig
from pipeline.metadata.fields import field_at, read_json, spans_at, texts_of
from pipeline.records import Span


def spans_of(metadata: str, rules: InputConfig) -> tuple[tuple[Span, ...] | None, tuple[str, str] | None]:
    """A sample's spans, None without `input.spans`; and (reason, detail) where they cannot be read."""
    if rules.spans is None:
        return None, None
    try:
        return spans_at(metadata, rules.spans.removeprefix("json:"), rules.spans_unit), None
    except ValueError as error:
        return None, ("bad_spans", f"input.spans: {error}")


def captions_of(texts: Mapping[str, str], rules: InputConfig) -> tuple[str, ...]:
    """The captions of the first source that has any: a file, or a field of the JSON, which may list several.

    Args:
        texts: the contents of the sample's files, by extension.
    """
    for source in rules.caption:
        suffix, _, path = source.partition(":")
        if suffix in texts:
            found = texts_of(field_at(read_json(texts[suffix]), path)) if path else (texts[suffix],)
            if found:
                return found
    return ()
