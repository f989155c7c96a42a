"""Text encoders, beside what diffusers' pipelines make of the same captions with the same weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import CogVideoXPipeline, HunyuanVideoPipeline, LTXPipeline, MochiPipeline, WanPipeline
from support.texts import caption_of, make_text_encoder, make_tokenizer
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    T5EncoderModel,
    UMT5EncoderModel,
)

import encoder
from encoder.text.preset_encoder import EncodedText, TextEncoder, batches, clean
from encoder.text.presets import PRESETS

LENGTHS = (0, 1, 5, 225, 226, 227, 255, 256, 511, 512, 600)
UNUSUAL = (
    "",
    " ",
    "a cat & a dog &amp;amp; the sun",
    "  two   dogs\n\trun ",
    "schÃ¶n",
    "日本の猫 🐈‍⬛",
    "e\u0301",
    "a\u200bcat",
    "<b>the mat</b>",
    "</s> a </s>",
)


@dataclass(frozen=True)
class Family:
    """One preset's encoder, and its pipeline: a caption becomes rows `n d`, and a mask where it has one."""

    ours: TextEncoder
    theirs: Callable[[str], tuple[Any, Any]]
    folder: Path


def pipeline_of(name: str, folder: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    kind = UMT5EncoderModel if name == "wan" else T5EncoderModel
    model = kind.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    parts = {"tokenizer": tokenizer, "text_encoder": model, "vae": None, "transformer": None, "scheduler": None}
    if name == "mochi":
        return MochiPipeline(**parts, force_zeros_for_empty_prompt=True)
    return {"cogvideox": CogVideoXPipeline, "wan": WanPipeline, "ltx": LTXPipeline}[name](**parts)


def encoded_by(pipeline: Any, caption: str, **arguments: Any) -> tuple[Any, Any]:
    """The rows and the mask of a pipeline; those of pipelines without masks are (rows, None)."""
    with torch.inference_mode():
        returned = pipeline.encode_prompt(caption, do_classifier_free_guidance=False, **arguments)
    mask = returned[1]
    return returned[0][0].numpy(), None if mask is None else mask[0].numpy()


@pytest.fixture(scope="module", params=sorted(PRESETS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    name = request.param
    folder = make_text_encoder(tmp_path_factory.mktemp(name), PRESETS[name].model_type)
    arguments = {"max_sequence_length": 512} if name == "wan" else {}  # as a call of the pipeline passes it on
    theirs = partial(encoded_by, pipeline_of(name, folder), **arguments)
    return Family(encoder.load_text(name, weights=str(folder)), theirs, folder)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    tokenizer = make_tokenizer()
    return [*(caption_of(length, tokenizer) for length in LENGTHS), *UNUSUAL]


@pytest.fixture(scope="module")
def encoded(family: Family, captions: list[str]) -> list[EncodedText]:
    return list(family.ours.encode(captions))


def padded(rows: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    return np.pad(rows, ((0, count - len(rows)), (0, 0)))


def test_embeddings_are_those_of_the_pipelines_own_encode_prompt(
    family: Family, captions: list[str], encoded: list[EncodedText]
) -> None:
    for caption, ours in zip(captions, encoded, strict=True):
        rows, mask = family.theirs(caption)
        own = padded(ours.arrays["text_embedding"], len(rows))
        assert np.abs(own - rows).max() < 1e-6, f"{caption[:40]!r}"
        assert ("text_mask" in ours.arrays) == (mask is not None)
        if mask is not None:
            assert np.array_equal(ours.arrays["text_mask"], mask), f"{caption[:40]!r}"


def test_tokens_are_counted_with_the_end_and_what_is_too_long_is_said_so(
    family: Family, encoded: list[EncodedText]
) -> None:
    most = family.ours.identity["preset"]["max_tokens"]
    for length, made in zip(LENGTHS, encoded[: len(LENGTHS)], strict=True):
        assert (made.tokens, made.truncated) == (length + 1, length + 1 > most)


def test_only_what_the_model_does_not_see_is_trimmed(family: Family, encoded: list[EncodedText]) -> None:
    name, most = family.ours.identity["preset"]["name"], family.ours.identity["preset"]["max_tokens"]
    for length, made in zip(LENGTHS, encoded[: len(LENGTHS)], strict=True):
        assert len(made.arrays["text_embedding"]) == (min(length + 1, most) if name == "wan" else most)


def test_the_same_captions_give_the_same_bits_again(
    family: Family, captions: list[str], encoded: list[EncodedText]
) -> None:
    for one, other in zip(encoded, family.ours.encode(captions), strict=True):
        assert one.arrays["text_embedding"].tobytes() == other.arrays["text_embedding"].tobytes()


def test_no_captions_give_no_embeddings(family: Family) -> None:
    assert family.ours.encode([]) == []


def test_a_preset_refuses_an_encoder_of_another_kind(family: Family) -> None:
    other = "cogvideox" if family.ours.identity["preset"]["model_type"] == "umt5" else "wan"
    with pytest.raises(ValueError, match=r"preset (cogvideox|wan) needs a u?mt?5 encoder|needs a t5 encoder"):
        encoder.load_text(other, weights=str(family.folder))


def test_an_unknown_preset_is_told_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown text preset 'flux': use cogvideox, wan, mochi"):
        encoder.load_text("flux", weights=str(tmp_path))


def test_a_folder_without_an_encoder_or_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json"):
        encoder.text_identity("wan", str(tmp_path), "float32")
    folder = make_text_encoder(tmp_path / "made", "umt5")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="has no tokenizer"):
        encoder.text_identity("wan", str(folder), "float32")


def test_the_identity_knows_weights_tokenizer_rule_and_precision(tmp_path: Path) -> None:
    folder = make_text_encoder(tmp_path, "t5")
    first = encoder.text_identity("cogvideox", str(folder), "float32")
    assert first == encoder.load_text("cogvideox", weights=str(folder)).identity
    assert first["preset"]["attend_padding"]
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    changed = tokenizer.read_text() + " "
    tokenizer.write_text(changed)
    second = encoder.text_identity("cogvideox", str(folder), "float32")
    assert {key for key in first if first[key] != second[key]} == {"tokenizer_sha256"}
    make_text_encoder(tmp_path, "t5", seed=1)
    tokenizer.write_text(changed)
    third = encoder.text_identity("mochi", str(folder), "bfloat16")
    assert {key for key in first if second[key] != third[key]} == {"weights_sha256", "preset", "dtype"}


def test_bfloat16_is_computed_as_the_pipeline_computes_it(tmp_path: Path) -> None:
    folder = make_text_encoder(tmp_path, "t5")
    (ours,) = encoder.load_text("cogvideox", weights=str(folder), dtype="bfloat16").encode(["a cat"])
    pipeline = pipeline_of("cogvideox", folder)
    pipeline.text_encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        theirs = pipeline.encode_prompt("a cat", do_classifier_free_guidance=False)[0][0].float().numpy()
    assert np.array_equal(ours.arrays["text_embedding"], theirs)


def test_captions_are_cleaned_once_and_for_all() -> None:
    assert clean("  schÃ¶n &amp;amp;\n a  cat ") == "schön & a cat"


def test_batches_hold_captions_of_similar_length_and_no_more_tokens_than_allowed() -> None:
    assert batches([3, 50, 4, 50, 5], most_tokens=100) == [[1, 3], [4, 2, 0]]
    assert batches([500], most_tokens=100) == [[0]]
    assert batches([]) == []


@pytest.mark.parametrize("name", ["ltx", "wan", "mochi"])
def test_any_pipelines_own_encode_prompt_is_stored_by_the_names_that_it_returns(name: str, tmp_path: Path) -> None:
    folder = make_text_encoder(tmp_path / "parts", "umt5" if name == "wan" else "t5")
    pipeline = pipeline_of(name, folder)
    pipeline.save_pretrained(tmp_path / "pipeline")
    loaded = encoder.load_text(None, weights=str(tmp_path / "pipeline"))
    assert loaded.identity["pipeline"] == type(pipeline).__name__
    assert loaded.identity == encoder.text_identity(None, str(tmp_path / "pipeline"), "float32")
    arguments = {"max_sequence_length": 512} if name == "wan" else {}
    captions = ["two dogs run", "", "the sun"]
    for caption, ours in zip(captions, loaded.encode(captions), strict=True):
        rows, mask = encoded_by(pipeline, caption, **arguments)
        assert np.array_equal(ours.arrays["text_embedding"], rows)
        assert set(ours.arrays) == ({"text_embedding"} if name == "wan" else {"text_embedding", "text_mask"})
        if mask is not None:
            assert np.array_equal(ours.arrays["text_mask"], mask.astype(bool))
            assert ours.tokens == mask.sum()


def test_a_pipeline_of_two_encoders_gives_its_pooled_embedding_too(tmp_path: Path) -> None:
    tokenizer, sizes = make_tokenizer(), {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    torch.manual_seed(0)
    llama = LlamaConfig(vocab_size=tokenizer.vocab_size, num_hidden_layers=4, **sizes)
    clip = CLIPTextConfig(vocab_size=tokenizer.vocab_size, num_hidden_layers=2, eos_token_id=1, **sizes)
    pipeline = HunyuanVideoPipeline(
        text_encoder=LlamaModel(llama).eval(),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModel(clip).eval(),
        tokenizer_2=tokenizer,
        vae=None,
        transformer=None,
        scheduler=None,
    )
    pipeline.save_pretrained(tmp_path)
    captions = ["a cat", ""]
    for caption, ours in zip(captions, encoder.load_text(None, weights=str(tmp_path)).encode(captions), strict=True):
        with torch.inference_mode():
            rows, pooled, mask = pipeline.encode_prompt(caption)
        assert list(ours.arrays) == ["text_embedding", "pooled_embedding", "text_mask"]
        assert np.array_equal(ours.arrays["text_embedding"], rows[0].numpy())
        assert np.array_equal(ours.arrays["pooled_embedding"], pooled[0].numpy())
        assert np.array_equal(ours.arrays["text_mask"], mask[0].bool().numpy())
