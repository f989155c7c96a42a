"""NeMo DFM cooks samples of `pth`, `pickle` and `json` from tars."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import torch
from support.exports import ONE, TURNED, all_rows, exported, files_in, name_of, scaled_by_hand
from support.text_runs import embedding_of

from pipeline.config.load import Config

SHAPES = (ONE, ONE, ONE, TURNED)


def samples_in(folder: Path) -> dict[str, dict[str, bytes]]:
    """By key and extension, which the first dot of a name divides, as WebDataset and Energon have it."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(key, {})[extension] = file.read()
    return samples


def test_its_tars_hold_each_row_under_a_key_of_its_own(wan: Config, tmp_path: Path) -> None:
    """As of NVIDIA-NeMo/DFM: dfm/src/megatron/data/wan/wan_taskencoder.py at 287ad34b20c8 (latents `c f h w`, left out
    without a word where a value is not finite or beyond 1000; texts `n d`, padded with zeros to 512 by the loader)
    and examples/megatron/recipes/wan/prepare_energon_dataset_wan.py at 2de593448976 (a pickled tensor; (mean -
    latents_mean) / latents_std; keys of the JSON).
    """
    export = exported(wan, tmp_path, "dfm", text="wan")
    samples = samples_in(tmp_path)
    made = {name_of(shard, row): row for shard, row in all_rows(SHAPES)}
    assert samples.keys() == made.keys()
    for name, row in made.items():
        sample = samples[name]
        latent = torch.load(io.BytesIO(sample["pth"]), weights_only=True)
        assert latent.dtype == torch.float16
        np.testing.assert_allclose(latent.float(), scaled_by_hand(row), rtol=2**-11, atol=1e-7)
        text = pickle.loads(sample["pickle"])
        assert text.dtype == torch.bfloat16
        np.testing.assert_array_equal(text.float(), embedding_of(row.captions[0]))
        about = json.loads(sample["json"])
        assert (about["caption"], about["processed_frames"]) == (row.captions[0], 9)
    assert export.target.arguments(export.shapes, 10)[1] == f"dataset.path={tmp_path}"


def test_its_bytes_follow_from_the_rows_alone(wan: Config, tmp_path: Path) -> None:
    for name in ("one", "two"):
        exported(wan, tmp_path / name, "dfm", text="wan")
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
