"""Writes a text encoder for the captions of the demo: a small T5 with random weights, whose tokens are words.

`python examples/make_tiny_t5.py FOLDER`, then `latentmill text … text.encoder=FOLDER text.preset=mochi`. What its rows
hold is noise, but each caption has its own, which is all that a transformer needs to tell a few clips apart. It needs
the extra `text`.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from pipeline.video.synthetic.scenes import COLOURS, PATTERNS, SHAPES

SPECIAL = ["<pad>", "</s>", "<unk>"]
BETWEEN = ["a", "an", "and", "move", "moves", "over", "then", ","]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    named = " ".join([*COLOURS, *SHAPES, *PATTERNS]).split()
    words = {word: number for number, word in enumerate(dict.fromkeys([*SPECIAL, *BETWEEN, *named]))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")


if __name__ == "__main__":
    main()
