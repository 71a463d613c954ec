#!/usr/bin/env python3
"""Writes the packaged model as a Hugging Face folder: config.json, safetensors, the tokenizer.

transformers and tokenizers write all of it, from the dequantized weights. With --type f32 the
folder gives the tokens of the GGUF file; bf16 cannot hold their values and gives its own. To see it:

    make_safetensors_copies.py MODEL /tmp/copy --type f32 --shard 200MB
    penstock generate --model /tmp/copy  --prompt "The capital of France is" --temperature 0
    penstock generate --model MODEL      --prompt "The capital of France is" --temperature 0
"""

import argparse
import json
import os
import sys

import reference_model
from reference_model import GoldenError, field, progress

TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the file that scripts/fetch-model fetches")
    parser.add_argument("folder", help="is made; must not be there")
    parser.add_argument("--type", choices=TYPES, default="f32", help="of the weights [f32]")
    parser.add_argument("--shard", default="5GB", help="largest file, as in 200MB [5GB]")
    options = parser.parse_args()
    if os.path.exists(options.folder):
        raise GoldenError(f"{options.folder} is there already: name a folder that is not")

    import torch

    reader = reference_model.open_gguf(options.model)
    progress("weights")
    model = reference_model.hf_model(reader, reference_model.dequantized(reader))
    model = model.to(getattr(torch, TYPES[options.type]))
    model.generation_config.eos_token_id = list(reference_model.END_IDS)
    model.save_pretrained(options.folder, max_shard_size=options.shard)
    progress("tokenizer")
    tokenizer = reference_model.hf_tokenizer(reader, special=True)
    tokenizer.save(os.path.join(options.folder, "tokenizer.json"))
    config = {"add_bos_token": False, "chat_template": field(reader, "tokenizer.chat_template")}
    with open(
        os.path.join(options.folder, "tokenizer_config.json"), "w", encoding="utf-8"
    ) as stream:
        json.dump(config, stream, indent=1)


if __name__ == "__main__":
    try:
        main()
    except GoldenError as error:
        sys.exit(f"make_safetensors_copies: {error}")
