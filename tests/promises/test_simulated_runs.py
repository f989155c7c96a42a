"""A run with the simulated encoder is a run like others, and says everywhere that its latents are noise."""

import json
from pathlib import Path

import pytest
from support.runs import MakeConfig, output_files, run_all, samples_of, write_tar

import encoder
from jobs.cli import main
from pipeline.audit.summary import write_report
from pipeline.config.identity import fingerprint, identity
from pipeline.config.load import Config
from pipeline.output.manifests import read_manifests
from pipeline.output.parts import read_footer
from pipeline.output.paths import done_shards
from pipeline.storage.store import Store


@pytest.fixture
def made(tmp_path: Path, make_config: MakeConfig, videos: tuple[bytes, ...]) -> Config:
    write_tar(tmp_path / "a.tar", samples_of(videos[:2]))
    config = make_config(encoder={"name": "simulated", "weights": "simulated:0.01"})
    run_simulated(config)
    return config


def run_simulated(config: Config) -> None:
    loaded = encoder.load("simulated", weights=config.encoder.weights, **config.encoder.load_options(), device="auto")
    run_all(config, loaded)
    values = identity(config, loaded.weights_sha256)
    run = {"identity": values, "fingerprint": fingerprint(values), "config": config.model_dump(mode="json")}
    Store(config.output.path).create("run.json", json.dumps(run).encode())


def test_its_files_say_so_and_verify(made: Config, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(made.output.path)
    run = json.loads(store.read("run.json"))
    assert run["identity"]["simulated"] is True
    path = next(iter(output_files(Path(made.output.path))))
    with store.open(path) as file:
        assert read_footer(file)["encoder"]["simulated"] is True
    assert write_report(store, run, read_manifests(store, done_shards(store)), 0, {})["simulated"] is True
    assert b"The encoder was simulated" in store.read("report.html")
    assert main(["verify", made.output.path]) == 0


def test_it_is_not_encoded_or_decoded_again(made: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", made.output.path, "--reencode", "1"]) == 2
    assert "there is nothing to encode again" in capsys.readouterr().err
    assert main(["verify", made.output.path, "--decode", "1"]) == 2
    assert "weights are simulated and have no decoder" in capsys.readouterr().err


def test_how_fast_its_device_is_changes_no_byte(made: Config, make_config: MakeConfig, tmp_path: Path) -> None:
    slower = {"name": "simulated", "weights": f"simulated:0.5:{tmp_path}"}
    again = make_config(encoder=slower, output={"path": str(tmp_path / "again")})
    run_simulated(again)
    assert output_files(tmp_path / "again") == output_files(Path(made.output.path))


def test_a_run_with_another_encoder_says_nothing_of_it(make_config: MakeConfig) -> None:
    assert "simulated" not in identity(make_config(), "00")
