"""Latents that are decoded again: what diffusers gives for the same latent, beside the frames of the source."""

import io
import json
import math
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from support.encoders import TINY, save
from support.makers import made_latent
from support.runs import configured, run_all, run_json, samples_of, write_tar

import encoder
from encoder.diffusers_vae import CLASSES
from encoder.weights import WeightsError
from jobs.cli import main
from pipeline.audit.pictures import side_by_side
from pipeline.audit.redecode import aligned, psnr_db, redecode
from pipeline.audit.reencode import frames_of, rows_of_parts
from pipeline.audit.show import find_row
from pipeline.config.load import Config
from pipeline.errors import UserError
from pipeline.latents.load import load_encoder
from pipeline.output.latent_bytes import latent_of
from pipeline.storage.store import Store


@pytest.mark.parametrize("class_name", CLASSES)
def test_every_class_decodes_as_diffusers_does(class_name: str, tmp_path: Path) -> None:
    vae = save(class_name, tmp_path)
    decoder = encoder.load_decoder(str(tmp_path))
    shape = (decoder.spec.latent_channels, 3, 2, 3)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        video = vae.decode(latent[None]).sample[0]
    expected = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    assert np.array_equal(decoder.decode(latent.numpy()), expected)


def test_a_latent_that_the_vae_cannot_decode_is_refused(tmp_path: Path) -> None:
    save("AutoencoderKLWan", tmp_path)
    with pytest.raises(ValueError, match=r"the VAE decodes 16 channels, the latent is \(4, 1, 2, 2\)"):
        encoder.load_decoder(str(tmp_path)).decode(np.zeros((4, 1, 2, 2), np.float32))
    with pytest.raises(WeightsError, match="give a diffusers VAE folder"):
        encoder.load_decoder(str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, videos: tuple[bytes, ...]) -> Config:
    return make_run(tmp_path_factory.mktemp("made"), videos[:4], {"frames": 9})


def make_run(folder: Path, videos: tuple[bytes, ...], clip: dict[str, object]) -> Config:
    """A run whose encoder is a tiny VAE of diffusers, with its decoder in `vae` of the same folder."""
    save("AutoencoderKLCogVideoX", folder / "vae")
    write_tar(folder / "a.tar", samples_of(videos))
    config = configured(
        folder,
        clip={"buckets": ["16x24", "24x16"]} | clip,
        encoder={"name": "diffusers", "weights": str(folder / "vae")},
        output={"path": str(folder / "out"), "dtype": "float32", "part_samples": 2},
    )
    loaded = load_encoder(config.encoder, "cpu")
    run_all(config, loaded)
    values = json.loads(run_json(config, loaded)) | {"config": config.model_dump(mode="json")}
    Store(config.output.path).create("run.json", json.dumps(values).encode())
    return config


def test_a_row_is_decoded_as_diffusers_decodes_it_and_compared_with_its_source(made: Config) -> None:
    store = Store(made.output.path)
    found = list(redecode(store, 2, vae=None))
    assert len(found) == 2
    torch.manual_seed(1)
    vae = diffusers.AutoencoderKLCogVideoX(**TINY["AutoencoderKLCogVideoX"]).eval()
    for clip in found:
        row, footer = find_row(store, clip.id)
        with torch.no_grad():
            video = vae.decode(torch.from_numpy(np.array(latent_of(row)))[None]).sample[0]
        expected = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
        assert np.array_equal(clip.decoded, expected)
        assert np.array_equal(clip.frames, frames_of(store, row, footer))
        assert 0 < clip.psnr_db < 60
        shown = Image.open(io.BytesIO(side_by_side(clip.frames, clip.decoded, clip.temporal_ratio)))
        assert shown.size[0] % 3 == 0, "a picture for each latent frame"
        assert shown.size[1] == 2 * 160


def test_a_row_that_continues_another_is_not_decoded_alone(tmp_path: Path, videos: tuple[bytes, ...]) -> None:
    config = make_run(tmp_path, videos[:2], {"frames": 9, "window": "full", "continuous": True})
    store = Store(config.output.path)
    rows = [row for _, row, _ in rows_of_parts(store, 100)]
    found = {clip.id for clip in redecode(store, 100, vae=None)}
    assert found == {row["id"] for row in rows if not row["continues"]}
    assert 0 < len(found) < len(rows)


def test_verify_says_the_psnr_and_writes_pictures(
    made: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = made.output.path
    arguments = ["--decode", "2", "--vae", made.encoder.weights, "--pictures", str(tmp_path / "pictures")]
    assert main(["verify", out, *arguments]) == 0
    said = capsys.readouterr().out
    assert said.count("PSNR") == 2
    assert "000.png" in said
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["000.png", "001.png"]
    assert main(["verify", out, "--decode", "1"]) == 0
    assert "PSNR" in capsys.readouterr().out


def test_another_vae_or_none_is_the_users_error(
    made: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("AutoencoderKLHunyuanVideo", tmp_path / "other")
    with pytest.raises(UserError, match="cannot be decoded: the VAE decodes 4 channels"):
        list(redecode(Store(made.output.path), 1, str(tmp_path / "other")))
    assert main(["verify", made.output.path, "--decode", "1", "--vae", str(tmp_path / "nothing")]) == 2
    assert "give a diffusers VAE folder" in capsys.readouterr().err
    assert main(["verify", made.output.path, "--decode", "1", "--vae", "random:0"]) == 2
    assert "random and have no decoder" in capsys.readouterr().err


def test_frames_that_cogvideox_gives_of_its_first_latent_again_are_left_out(tmp_path: Path) -> None:
    save("AutoencoderKLCogVideoX", tmp_path)
    decoded = encoder.load_decoder(str(tmp_path)).decode(made_latent(0, (16, 2, 2, 2)))
    assert len(decoded) == 8, "of five frames"
    assert np.array_equal(aligned(decoded, np.zeros((5, 16, 16, 3), np.uint8)), decoded[3:])
    with pytest.raises(UserError, match="it is not the run's VAE"):
        aligned(decoded, np.zeros((9, 16, 16, 3), np.uint8))


def test_psnr_is_that_of_the_mean_square_over_all_frames() -> None:
    black, grey = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 16, np.uint8)
    assert psnr_db(black, grey) == pytest.approx(20 * math.log10(255 / 16))
    assert psnr_db(grey, black) == psnr_db(black, grey)
    assert psnr_db(black, black) == math.inf
