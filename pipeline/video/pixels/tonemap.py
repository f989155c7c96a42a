"""HDR to SDR in display light, as ITU-R BT.2408 maps its reference white of 203 cd/m2 to SDR white; brighter is cut.

The transfers are those of ITU-R BT.2100 (HLG as on a display of 1,000 cd/m2) and, for SDR, the inverse of BT.1886.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from pipeline.records import Uint8Frames

PQ, HLG = "smpte2084", "arib-std-b67"  # FFmpeg's names of the two transfers
WHITE_NITS = 203.0
HLG_PEAK_NITS, HLG_GAMMA = 1000.0, 1.2
DISPLAY_GAMMA = 2.4
BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)  # BT.2087
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
STEPS = 4096  # of the table of the last step, which has 255

Floats = npt.NDArray[np.float32]


def to_sdr(picture: npt.NDArray[np.uint16], transfer: str, is_bt2020: bool) -> Uint8Frames:
    """`h w c` of coded HDR, 0 to 65535 -> `h w c` of SDR in BT.709."""
    light = _light(transfer)[picture]
    if transfer == HLG:
        luma = np.maximum(light @ BT2020_LUMA, 1e-6)
        light *= (HLG_PEAK_NITS / WHITE_NITS * luma ** (HLG_GAMMA - 1))[..., None]
    if is_bt2020:
        light = light @ BT2020_TO_BT709.T
    return _sdr()[(np.clip(np.sqrt(np.clip(light, 0, 1)), 0, 1) * (STEPS - 1) + 0.5).astype(np.uint16)]


@cache
def _light(transfer: str) -> Floats:
    """For each code, the light it stands for: of PQ in units of SDR white, of HLG before the display's gamma."""
    code = np.linspace(0, 1, 1 << 16)
    if transfer == PQ:
        root = code ** (32 / 2523)
        nits = 10000 * (np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)
        return (nits / WHITE_NITS).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


@cache
def _sdr() -> Uint8Frames:
    """The code of SDR for each square root of light, which spaces the steps about as codes do."""
    light = np.linspace(0, 1, STEPS) ** 2
    return np.rint(255 * light ** (1 / DISPLAY_GAMMA)).astype(np.uint8)
