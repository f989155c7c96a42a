"""finetrainers numbers its files from 0 and samples the moments itself."""

from pathlib import Path

import numpy as np
import torch
from support.exports import ONE, SHIFT, STD, TURNED, all_rows, exported
from support.text_runs import MOST_TOKENS, WIDTH, embedding_of

from pipeline.config.load import Config

FOLDER = "finetrainers-precomputed-data"


def test_wan_has_moments_by_channel_and_its_factors(wan: Config, tmp_path: Path) -> None:
    """As of a-r-r-o-w/finetrainers: finetrainers/data/precomputation.py at c95e5ebf2194 (`latent-N.pt` and
    `condition-N.pt` for N in 0, 1, … below `finetrainers-precomputed-data`, loaded with `weights_only`),
    models/cogvideox/base_specification.py at 1b2366711af7 (`latents` of `b f 2c h w`, chunked in two along 2, then
    scaled by the model's configuration), models/wan/base_specification.py at f7ffea9efcf8 (`latents` of `b 2c f h w`,
    `latents_mean`, and 1 / std as `latents_std`), models/modeling_utils.py at 03bfee61dc8e (all tensors but those two
    are concatenated along 0) and processors/t5.py at cf7c41dbb39a (texts have their full length; the mask is
    dropped).
    """
    export = exported(wan, tmp_path, "finetrainers", text="wan")
    made = all_rows((ONE, ONE, ONE, TURNED))
    assert len(list((tmp_path / FOLDER).iterdir())) == 2 * len(made)
    for number, (_, row) in enumerate(made):
        found = torch.load(tmp_path / FOLDER / f"latent-{number}.pt", weights_only=True)
        assert found["latents"].dtype == torch.bfloat16
        mean, logvar = found["latents"].float().chunk(2, dim=1)
        np.testing.assert_allclose(mean[0], row.latent, rtol=2**-8)
        np.testing.assert_allclose(logvar[0], row.logvar, rtol=2**-8)
        torch.testing.assert_close(found["latents_mean"], torch.tensor(SHIFT))
        torch.testing.assert_close(found["latents_std"], 1 / torch.tensor(STD))
        text = torch.load(tmp_path / FOLDER / f"condition-{number}.pt", weights_only=True)["encoder_hidden_states"]
        assert (text.shape, text.dtype) == ((1, MOST_TOKENS, WIDTH), torch.bfloat16)
        tokens = embedding_of(row.captions[0])
        np.testing.assert_array_equal(text[0, : len(tokens)].float(), tokens)
        assert not text[0, len(tokens) :].any()
    (arguments,) = export.target.arguments(export.shapes, len(made))
    assert arguments.split()[:2] == ["--precomputation_dir", str(tmp_path)]
    assert arguments.endswith("--precomputation_reuse --precomputation_items 10")


def test_cogvideox_has_frames_before_channels_and_nothing_else(cogvideox: Config, tmp_path: Path) -> None:
    exported(cogvideox, tmp_path, "finetrainers", text="cogvideox")
    for number, (_, row) in enumerate(all_rows((ONE,) * 4)):
        found = torch.load(tmp_path / FOLDER / f"latent-{number}.pt", weights_only=True)
        assert found.keys() == {"latents"}
        mean, logvar = found["latents"].float().chunk(2, dim=2)
        np.testing.assert_allclose(mean[0].movedim(0, 1), row.latent, rtol=2**-8)
        np.testing.assert_allclose(logvar[0].movedim(0, 1), row.logvar, rtol=2**-8)
