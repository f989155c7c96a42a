"""Weights: layouts, strictness, and the identity that does not depend on the file."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from safetensors.torch import load_file, save_file

import encoder
from encoder.checkpoints import cogvideox as checkpoints
from encoder.models.cogvideox import CogVideoXParams, Encoder
from encoder.weights import WeightsError, assign, own_tensors, random_weights, read_published, sha256_of

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(16, 32, 32, 64), layers_per_block=1, norm_num_groups=8, scaling_factor=0.7
    )
    vae.save_pretrained(folder := tmp_path_factory.mktemp("saved"))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy, for a test to change."""
    return shutil.copytree(saved, tmp_path, dirs_exist_ok=True)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_random_weights_are_the_same_for_a_seed_and_others_for_another() -> None:
    one, again, other = (encoder.load("tiny", weights=f"random:{seed}") for seed in (0, 0, 1))
    assert one.weights_sha256 == again.weights_sha256 != other.weights_sha256


def test_random_weights_of_a_seed_never_change() -> None:
    sha256 = encoder.load("tiny", weights="random:0").weights_sha256
    assert sha256 == "9d8a34fde6b6ed794f871bbe285cd192b5219b8f99f7de7ff60cd2003400f67c"


def test_random_weights_keep_activations_sane() -> None:
    posterior = encoder.load("tiny", weights="random:0").encode(torch.rand(1, 3, 5, 16, 16) * 2 - 1)
    assert 0.01 < posterior.mean.std() < 10


@pytest.mark.parametrize("seed", ["", "x", "-1", "1.5"])
def test_a_seed_that_is_no_number_is_refused(seed: str) -> None:
    with pytest.raises(WeightsError, match="a seed is a whole number: write random:0"):
        encoder.load("tiny", weights=f"random:{seed}")


def test_a_folder_and_its_single_file_are_the_same_weights(folder: Path) -> None:
    whole = encoder.load("tiny", weights=str(folder))
    single = encoder.load("tiny", weights=str(folder / FILE))
    assert whole.weights_sha256 == single.weights_sha256


def test_a_sharded_folder_is_the_same_weights(folder: Path) -> None:
    before = encoder.load("tiny", weights=str(folder)).weights_sha256
    tensors = load_file(folder / FILE)
    names = sorted(tensors)
    parts = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / FILE).unlink()
    assert encoder.load("tiny", weights=str(folder)).weights_sha256 == before
    (folder / "part-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"is missing part-2\.safetensors"):
        encoder.load("tiny", weights=str(folder))


def test_the_identity_is_that_of_the_values_and_not_of_the_type_they_are_stored_in(folder: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in load_file(folder / FILE).items()}
    save_file(half, folder / "half.safetensors")
    save_file({name: tensor.float() for name, tensor in half.items()}, folder / "wide.safetensors")
    narrow, wide = (encoder.load("tiny", weights=str(folder / f"{name}.safetensors")) for name in ("half", "wide"))
    assert narrow.weights_sha256 == wide.weights_sha256


def test_scaling_comes_from_the_checkpoints_config(folder: Path) -> None:
    edit_config(folder, invert_scale_latents=True)
    spec = encoder.load("tiny", weights=str(folder)).spec
    assert (spec.scaling_factor, spec.invert_scale_latents) == (0.7, True)


def test_a_single_file_of_cogvideox_asks_for_the_scaling_in_which_its_releases_differ(folder: Path) -> None:
    params = CogVideoXParams((32, 64), 1)
    with torch.device("meta"):
        module = Encoder(params, "chunk")
    torch.save(sat_of(random_weights(module, "random:0")), folder / "3d-vae.pt")
    with pytest.raises(WeightsError, match=r"set encoder\.scaling_factor to 1\.15258426 for .*-2b, or to 0\.7 for 5b"):
        encoder.load("cogvideox", weights=str(folder / "3d-vae.pt"))
    loaded = encoder.load("cogvideox", weights=str(folder / "3d-vae.pt"), scaling_factor=0.7)
    assert loaded.identity["scaling"]["scale"] == [0.7]
    assert loaded.spec.spatial_ratio == 2


def test_a_scaling_factor_that_the_weights_contradict_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"scaling_factor is 1\.15, but .*\(scaling_factor 0\.7\): leave it out"):
        encoder.load("tiny", weights=str(folder), scaling_factor=1.15)
    assert encoder.load("tiny", weights=str(folder), scaling_factor=0.7).spec.scaling_factor == 0.7


def test_the_file_of_a_diffusers_folder_is_scaled_as_the_folder(folder: Path) -> None:
    assert encoder.load("cogvideox", weights=str(folder / FILE)).spec.scaling_factor == 0.7


def test_other_channels_blocks_and_groups_are_those_of_the_config(folder: Path) -> None:
    loaded, tiny = (encoder.load(name, weights=str(folder)) for name in ("cogvideox", "tiny"))
    assert loaded.weights_sha256 == tiny.weights_sha256
    edit_config(folder, act_fn="relu")
    with pytest.raises(WeightsError, match="act_fn is relu, and only silu is supported"):
        encoder.load("cogvideox", weights=str(folder))


def test_the_name_of_a_repository_is_answered_with_its_url() -> None:
    with pytest.raises(WeightsError, match=r"hf://zai-org/CogVideoX-2b/vae"):
        encoder.load("tiny", weights="zai-org/CogVideoX-2b")


def test_a_config_of_another_model_is_answered_with_the_name_of_its_encoder(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"a AutoencoderKLCogVideoX, .* use encoder\.name: cogvideox"):
        encoder.load("wan", weights=str(folder))
    edit_config(folder, _class_name="AutoencoderKLWan", is_residual=True)
    with pytest.raises(WeightsError, match=r"a AutoencoderKLWan, .* use encoder\.name: wan2\.2"):
        encoder.load("wan", weights=str(folder))
    edit_config(folder, _class_name="AutoencoderKLMochi")
    with pytest.raises(WeightsError, match=r"a AutoencoderKLMochi, .* use encoder\.name: diffusers, if diffusers has"):
        encoder.load("wan", weights=str(folder))


def test_missing_extra_and_misshapen_tensors_are_named(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    del tensors["encoder.conv_in.conv.weight"]
    tensors["encoder.surprise"] = torch.zeros(1)
    tensors["encoder.norm_out.bias"] = torch.zeros(3)
    save_file(tensors, folder / FILE)
    with pytest.raises(WeightsError) as caught:
        encoder.load("tiny", weights=str(folder))
    message = str(caught.value)
    assert "missing: stem.conv.weight" in message
    assert "not part of this encoder: encoder.surprise" in message
    assert "of another shape: head.norm.bias (3,) for (64,)" in message


def test_many_problems_are_shortened_to_a_line(folder: Path) -> None:
    kept = {name: tensor for name, tensor in load_file(folder / FILE).items() if "levels.0" in name}
    save_file(kept | {"decoder.x": torch.zeros(1)}, folder / FILE)
    with pytest.raises(WeightsError, match=r"missing: .* and \d+ more$"):
        encoder.load("tiny", weights=str(folder))


def test_the_only_variant_in_a_folder_is_read(folder: Path) -> None:
    before = encoder.load("tiny", weights=str(folder)).weights_sha256
    (folder / FILE).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    assert encoder.load("tiny", weights=str(folder)).weights_sha256 == before


def test_the_vae_of_a_pipelines_folder_is_taken_and_that_is_said(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = encoder.load("tiny", weights=str(folder)).weights_sha256
    (tmp_path / "model" / "vae").mkdir(parents=True)
    for file in ("config.json", FILE):
        (folder / file).rename(tmp_path / "model" / "vae" / file)
    assert encoder.load("tiny", weights=str(tmp_path / "model")).weights_sha256 == before
    assert "its VAE is read from the subfolder vae" in caplog.text


def test_the_folder_of_a_release_is_answered_with_the_file_of_its_vae(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanModel"}))
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"release of a WanModel: give its VAE alone, or a file.*Wan2\.1_VAE\.pth"):
        encoder.load("wan", weights=str(tmp_path))


def test_a_folder_with_pickled_tensors_is_read(folder: Path) -> None:
    before = encoder.load("tiny", weights=str(folder)).weights_sha256
    torch.save(load_file(folder / FILE), folder / "diffusion_pytorch_model.bin")
    (folder / FILE).unlink()
    assert encoder.load("tiny", weights=str(folder)).weights_sha256 == before


def test_weights_do_not_change_when_their_file_does(folder: Path) -> None:
    loaded, clip = encoder.load("tiny", weights=str(folder)), torch.ones(1, 3, 5, 16, 16)
    before = loaded.encode(clip).mean
    with (folder / FILE).open("r+b") as file:
        file.write(bytes((folder / FILE).stat().st_size))
    assert torch.equal(loaded.encode(clip).mean, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_named(folder: Path, value: float) -> None:
    tensors = load_file(folder / FILE)
    tensors["encoder.norm_out.bias"][3] = value
    save_file(tensors, folder / FILE)
    with pytest.raises(WeightsError, match=r"values that are not finite: head\.norm\.bias"):
        encoder.load("tiny", weights=str(folder))


def test_integers_are_no_weights(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    tensors["encoder.norm_out.bias"] = torch.zeros(64, dtype=torch.int32)
    save_file(tensors, folder / FILE)
    with pytest.raises(WeightsError, match=r"not floating point: head\.norm\.bias"):
        encoder.load("tiny", weights=str(folder))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no weights at .*: give a diffusers VAE folder"),
        (lambda path: path.mkdir(), "contains no config.json"),
        (lambda path: path.write_bytes(b"xx"), "is not a file of tensors"),
    ],
)
def test_a_path_that_holds_no_weights_is_refused_with_what_may_be_given(tmp_path, make, message) -> None:
    make(tmp_path / "weights")
    with pytest.raises(WeightsError, match=message):
        encoder.load("tiny", weights=str(tmp_path / "weights"))


def test_a_damaged_file_is_refused_by_its_name(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-100])
    with pytest.raises(WeightsError, match=re.escape(f"{folder / FILE} cannot be read as safetensors")):
        encoder.load("tiny", weights=str(folder))


def test_a_folder_without_its_tensors_is_refused_by_the_file_it_lacks(folder: Path) -> None:
    (folder / FILE).unlink()
    with pytest.raises(WeightsError, match=f"is missing {FILE}"):
        encoder.load("tiny", weights=str(folder))


def sat_name(name: str) -> str:
    """The name of a diffusers tensor in the layout that CogVideoX was first published in."""
    for theirs, original in (
        ("down_blocks.", "down."),
        ("resnets.", "block."),
        ("downsamplers.0", "downsample"),
        ("conv_shortcut", "nin_shortcut"),
        ("mid_block.block.0", "mid.block_1"),
        ("mid_block.block.1", "mid.block_2"),
    ):
        name = name.replace(theirs, original)
    return name


def sat_of(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our tensors by the names of the original layout."""
    published = {}
    for name, tensor in ours.items():
        for pattern, theirs in (
            (r"^levels\.(\d)\.block(\d)\.", r"encoder.down.\1.block.\2."),
            (r"^levels\.(\d)\.down\.picture", r"encoder.down.\1.downsample.conv"),
            (r"^middle\.0", "encoder.mid.block_1"),
            (r"^middle\.1", "encoder.mid.block_2"),
            (r"^stem\.conv", "encoder.conv_in.conv"),
            (r"^head\.norm", "encoder.norm_out"),
            (r"^head\.conv", "encoder.conv_out.conv"),
            (r"\.conv([12])\.", r".conv\1.conv."),
            (r"\.shortcut\.", ".nin_shortcut."),
        ):
            name = re.sub(pattern, theirs, name)
        published[name] = tensor
    return published


def sat_tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / FILE)
    return {sat_name(name): tensor for name, tensor in tensors.items()} | {"loss.logvar": torch.zeros(1)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_the_original_layout_is_the_same_weights_and_gives_the_same_latents(
    folder: Path, dtype: torch.dtype, prefix: str, wrapper: str | None
) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in load_file(folder / FILE).items()}, folder / FILE)
    content: dict[str, object] = {prefix + name: tensor for name, tensor in sat_tensors(folder).items()}
    if prefix:
        content["conditioner.encoder.weight"] = torch.zeros(2)
    torch.save(content if wrapper is None else {wrapper: content, "epoch": 3}, folder / "3d-vae.pt")
    theirs, original = (encoder.load("tiny", weights=str(path)) for path in (folder, folder / "3d-vae.pt"))
    assert original.weights_sha256 == theirs.weights_sha256
    clip = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    assert torch.equal(original.encode(clip).mean, theirs.encode(clip).mean)


def test_attention_of_the_original_layout_is_read_with_its_1x1_kernels(tmp_path: Path) -> None:
    params = CogVideoXParams((8, 16), 1, groups=4, attention_levels=(1,), middle_attention=True)
    with torch.device("meta"):
        module = Encoder(params, "chunk")
    ours = random_weights(module, "random:0")
    published = {}
    for name, tensor in ours.items():
        original = name.replace("levels.1.attention0", "encoder.down.1.attn.0").replace(
            "middle.1", "encoder.mid.attn_1"
        )
        is_kernel = original != name and tensor.ndim == 2
        tensor = tensor[..., None, None, None] if is_kernel else tensor
        parts = tensor.chunk(3) if ".qkv." in original else (tensor,)
        for part, letter in zip(parts, "qkv", strict=False):
            published[original.replace(".qkv.", f".{letter}.").replace(".project.", ".proj_out.")] = part
    torch.save(published, tmp_path / "vae.pt")
    read, _ = own_tensors(read_published(tmp_path / "vae.pt"), checkpoints.LAYOUT, tmp_path)
    assert assign(module, read, "vae.pt") == sha256_of(ours)
    shapes = {name: tuple(tensor.shape) for name, tensor in read.items()}
    assert checkpoints.params_of_shapes(shapes, CogVideoXParams((1,), 1, groups=4)) == params


def test_a_file_with_two_encoders_is_refused_by_their_prefixes(folder: Path) -> None:
    tensors = sat_tensors(folder)
    torch.save({f"{prefix}.{name}": t for name, t in tensors.items() for prefix in ("vae", "ema")}, folder / "two.pt")
    with pytest.raises(WeightsError, match=r"several encoders, under ema\., vae\.: give a file with one"):
        encoder.load("tiny", weights=str(folder / "two.pt"))


class Harmful:
    """An object whose unpickling would call something."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def test_a_pickle_that_could_run_code_is_not_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"encoder.conv_in.conv.weight": Harmful()}, folder / "bad.pt")
    with pytest.raises(WeightsError, match=r"bad\.pt contains more than tensors"):
        encoder.load("tiny", weights=str(folder / "bad.pt"))
    assert "ran" not in capsys.readouterr().out


def test_a_damaged_pickle_and_one_without_tensors_are_refused_by_name(folder: Path) -> None:
    torch.save(sat_tensors(folder), folder / "cut.pt")
    (folder / "cut.pt").write_bytes((folder / "cut.pt").read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"cut\.pt cannot be read by torch\.load"):
        encoder.load("tiny", weights=str(folder / "cut.pt"))
    torch.save([1, 2], folder / "list.pt")
    with pytest.raises(WeightsError, match=r"list\.pt contains a list, not tensors by name"):
        encoder.load("tiny", weights=str(folder / "list.pt"))
