#!/usr/bin/env python3
"""Writes families/<name>.gguf: the tiny models of families/ as GGUF files, by PyPI gguf.

Names, keys and the order of rows are those that llama.cpp's converters give each architecture; the
matrices keep their element type, vectors are f32. The answers are in families/<name>/reference.json.
"""

import argparse
import json
import os
import sys

import gguf
import numpy as np

from reference_model import GoldenError, progress

# Architecture in the GGUF file: Mistral's is llama.
FAMILIES = {
    "llama3": "llama",
    "llama_linear": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}


def pairs_from_halves(rows, heads):
    """Rows (i, i + head_dim/2) of each head to (2i, 2i+1), the order of the llama architecture."""
    shape = rows.shape
    halves = rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(shape)


def rope_factors(rope, head_dim):
    """What Llama 3.1's rule divides each frequency by, from its published description."""
    frequencies = rope["rope_theta"] ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def load(folder):
    """The config and {name: (float32 array, element type in the file)} of a folder."""
    import torch
    from safetensors.torch import load_file

    with open(os.path.join(folder, "config.json"), encoding="utf-8") as stream:
        config = json.load(stream)
    tensors = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            tensors |= load_file(os.path.join(folder, file))
    return config, {
        name: (tensor.to(torch.float32).numpy(), tensor.dtype) for name, tensor in tensors.items()
    }


def write_config(writer, config):
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config["rope_parameters"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config["vocab_size"])
    if config.get("sliding_window") and config["model_type"] == "mistral":
        writer.add_sliding_window(config["sliding_window"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_factors(rope, head_dim))


def write(folder, path, architecture):
    import torch

    config, tensors = load(folder)
    writer = gguf.GGUFWriter(path, architecture)
    write_config(writer, config)
    kind = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for name, (rows, dtype) in tensors.items():
        if config["tie_word_embeddings"] and name == "lm_head.weight":
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise GoldenError(f"PyPI gguf knows no name for {name} of {architecture}")
        if architecture == "llama" and "q_proj" in name:
            rows = pairs_from_halves(rows, config["num_attention_heads"])
        if architecture == "llama" and "k_proj" in name:
            rows = pairs_from_halves(rows, config["num_key_value_heads"])
        element = gguf.GGMLQuantizationType.F32
        if rows.ndim > 1 and dtype == torch.bfloat16:
            element = gguf.GGMLQuantizationType.BF16
        if rows.ndim > 1 and dtype == torch.float16:
            element = gguf.GGMLQuantizationType.F16
        writer.add_tensor(target, gguf.quantize(rows, element), raw_dtype=element)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="tests/golden/families")
    folder = parser.parse_args().folder
    for name, architecture in FAMILIES.items():
        progress(f"{name} as {architecture}")
        write(os.path.join(folder, name), os.path.join(folder, f"{name}.gguf"), architecture)


if __name__ == "__main__":
    try:
        main()
    except GoldenError as error:
        sys.exit(f"make_gguf_families: {error}")
