"""A model of llama-2-7b's shapes with random weights, as large as one wants it, to measure loading
with: a folder with config.json and model.safetensors (bf16), or one GGUF file of a quantization.
Needs numpy. No vocabulary comes with it, so it is for `penstock bench model` alone.

usage: make_model_file.py FOLDER|FILE.gguf [--layers 32] [--type q4_1|q8_0]
"""

import argparse
import json
import pathlib
import struct

import numpy

HIDDEN, FFN, HEADS, VOCAB, CONTEXT = 4096, 11008, 32, 32000, 4096
SCALE = 1 / 64  # of a weight: a row of 4096 of them keeps the size of what it is multiplied with
GGUF_TYPES = {"f32": 0, "q4_1": 3, "q8_0": 8}


def tensors(layers):
    """Names as safetensors and GGUF have them, and shapes, rows first."""
    yield "model.embed_tokens.weight", "token_embd.weight", (VOCAB, HIDDEN)
    for i in range(layers):
        for hf, gguf, shape in (
                ("input_layernorm", "attn_norm", (HIDDEN,)),
                ("self_attn.q_proj", "attn_q", (HIDDEN, HIDDEN)),
                ("self_attn.k_proj", "attn_k", (HIDDEN, HIDDEN)),
                ("self_attn.v_proj", "attn_v", (HIDDEN, HIDDEN)),
                ("self_attn.o_proj", "attn_output", (HIDDEN, HIDDEN)),
                ("post_attention_layernorm", "ffn_norm", (HIDDEN,)),
                ("mlp.gate_proj", "ffn_gate", (FFN, HIDDEN)),
                ("mlp.up_proj", "ffn_up", (FFN, HIDDEN)),
                ("mlp.down_proj", "ffn_down", (HIDDEN, FFN))):
            yield f"model.layers.{i}.{hf}.weight", f"blk.{i}.{gguf}.weight", shape
    yield "model.norm.weight", "output_norm.weight", (HIDDEN,)
    yield "lm_head.weight", "output.weight", (VOCAB, HIDDEN)


def bf16(values):
    return (values.astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)


def blocks(kind, count, random):
    """Random blocks of 32: scales that give weights their size."""
    half = lambda value: numpy.full(count, value, numpy.float16).view(numpy.uint8).reshape(-1, 2)
    if kind == "q8_0":
        return numpy.hstack([half(SCALE / 73), random.integers(0, 256, (count, 32), numpy.uint8)])
    scale = SCALE / 4.6
    return numpy.hstack([half(scale), half(-7.5 * scale),
                         random.integers(0, 256, (count, 16), numpy.uint8)])


def write(file, part, count):
    """`count` rows of `part`, which begins again where it ends: a prime number of them, so that
    hardly two rows of a matrix are equal."""
    while count > 0:
        file.write(part[:count])
        count -= len(part)


def write_safetensors(folder, layers, random):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
        "num_hidden_layers": layers, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": False, "torch_dtype": "bfloat16"}))
    header, offset = {}, 0
    for name, _, shape in tensors(layers):
        end = offset + 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    part = bf16(random.normal(0, SCALE, 16000057))
    ones = bf16(numpy.ones(HIDDEN))
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, shape in tensors(layers):
            write(file, part if len(shape) > 1 else ones, int(numpy.prod(shape)))


def write_gguf(path, layers, kind, random):
    string = lambda text: struct.pack("<Q", len(text)) + text.encode()
    ints = {"block_count": layers, "context_length": CONTEXT, "embedding_length": HIDDEN,
            "feed_forward_length": FFN, "attention.head_count": HEADS,
            "attention.head_count_kv": HEADS, "rope.dimension_count": HIDDEN // HEADS,
            "vocab_size": VOCAB}
    keys = string("general.architecture") + struct.pack("<I", 8) + string("llama")
    for name, value in ints.items():
        keys += string("llama." + name) + struct.pack("<II", 4, value)
    keys += string("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5)
    part = blocks(kind, 1000003, random)
    infos, sizes, offset = b"", [], 0
    for _, name, shape in tensors(layers):
        matrix = len(shape) > 1
        size = int(numpy.prod(shape)) // 32 * part.shape[1] if matrix else 4 * shape[0]
        infos += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape),
                                            GGUF_TYPES[kind if matrix else "f32"], offset)
        sizes.append(size)
        offset += size + -size % 32
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(sizes), len(ints) + 2) + keys + infos)
        file.write(bytes(-file.tell() % 32))
        for (_, _, shape), size in zip(tensors(layers), sizes):
            if len(shape) > 1:
                write(file, part, size // part.shape[1])
            else:
                file.write(numpy.ones(shape, numpy.float32))
            file.write(bytes(-size % 32))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--type", choices=["q4_1", "q8_0"], default="q4_1")
    arguments = parser.parse_args()
    random = numpy.random.default_rng(1)
    if arguments.path.suffix == ".gguf":
        write_gguf(arguments.path, arguments.layers, arguments.type, random)
    else:
        write_safetensors(arguments.path, arguments.layers, random)


if __name__ == "__main__":
    main()
