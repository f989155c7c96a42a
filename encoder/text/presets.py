"""How each family of video models treats the padding of a prompt, without torch."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

TextPresetName = Literal["cogvideox", "wan", "mochi"]


@dataclass(frozen=True, slots=True)
class TextPreset:
    """How the pipelines of one family encode a prompt, as diffusers runs them.

    `attend_padding`: the encoder gets no mask, and padding is content. `trim`: rows of padding are left out, which a
    reader puts back as zeros. `keep_mask`: the mask is stored beside the rows. `empty_is_masked`: an empty caption is
    padding alone, with nothing in its mask. `clean`: broken Unicode, HTML entities and white space are mended.
    """

    name: str
    model_type: str
    max_tokens: int
    attend_padding: bool = False
    trim: bool = False
    keep_mask: bool = False
    empty_is_masked: bool = False
    clean: bool = False

    def rules(self) -> dict[str, Any]:
        """Everything of it, as plain values: it changes what a model sees, so it is part of a run's identity."""
        return asdict(self)


PRESETS: dict[str, TextPreset] = {
    preset.name: preset
    for preset in (
        TextPreset("cogvideox", "t5", 226, attend_padding=True),
        TextPreset("wan", "umt5", 512, trim=True, clean=True),
        TextPreset("mochi", "t5", 256, keep_mask=True, empty_is_masked=True),
    )
}


def preset_of(name: str) -> TextPreset:
    """The preset of a name. Raises ValueError where there is none."""
    if name not in PRESETS:
        raise ValueError(f"unknown text preset {name!r}: use {', '.join(PRESETS)}")
    return PRESETS[name]
