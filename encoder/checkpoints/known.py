"""The layouts of all native encoders by name, and which of them a config or the names of tensors belong to."""

from collections.abc import Iterable

from encoder.checkpoints import cogvideox, hunyuan15, ltx, wan
from encoder.checkpoints.layout import Config, Layout

LAYOUTS: dict[str, Layout] = {
    "cogvideox": cogvideox.LAYOUT,
    "tiny": cogvideox.LAYOUT,
    "wan": wan.WAN,
    "wan2.2": wan.WAN22,
    "ltx": ltx.LAYOUT,
    "hunyuan1.5": hunyuan15.LAYOUT,
}


def native_of_config(config: Config) -> str | None:
    """The name of the native encoder for a diffusers config; None if there is none."""
    class_name = config.get("_class_name")
    if class_name == "AutoencoderKLWan":
        return "wan2.2" if config.get("is_residual") else "wan"
    return next((name for name, layout in LAYOUTS.items() if class_name in layout.classes), None)


def native_of_tensors(published: Iterable[str]) -> str | None:
    """The name of the native encoder whose tensors have these published names; None if there is none."""
    names = "\n".join(published)
    return next((name for name, layout in LAYOUTS.items() if layout.recognises(names)), None)
