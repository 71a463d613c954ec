"""Turns the packaged GGUF file into Hugging Face objects: a float32 LlamaForCausalLM and a BPE.

Nothing of this project's own code takes part, so what comes out can judge the engine. Every fact
the builders rely on is read from the file; a file that lacks one is refused with a GoldenError.
"""

import datetime
import hashlib
import importlib.metadata
import json
import os
import sys
import time

import gguf
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END_IDS = (0, 2, 4)
END_NAMES = ("<|endoftext|>", "<|im_end|>", "<reponame>")
CONTROL_TOKEN_TYPE = 3


class GoldenError(Exception):
    """Something the user can put right; the text says what."""


def progress(text):
    """One line on standard error, with the clock."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def open_gguf(path):
    """The file's reader; refuses what is not a Llama with a GPT-2 style BPE."""
    if not os.path.isfile(path):
        raise GoldenError(f"no model file at {path}: fetch it with scripts/fetch-model")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise GoldenError(f"{path} cannot be read as GGUF ({error}): fetch it again") from error
    architecture = field(reader, "general.architecture")
    if architecture != "llama":
        raise GoldenError(f"{path} holds the architecture {architecture!r}; only 'llama' is known")
    return reader


def field(reader, name):
    """The value of one metadata field."""
    if name not in reader.fields:
        raise GoldenError(f"the model file has no metadata field {name}: is it the right file?")
    return reader.fields[name].contents()


def dequantized(reader):
    """{tensor name: float32 array, rows first}, in the file's own row order."""
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        for tensor in reader.tensors
    }


def halves_from_pairs(rows, heads):
    """Rows (2i, 2i+1) of each head, which RoPE rotates together, to rows (i, i + head_dim/2)."""
    count, width = rows.shape
    pairs = rows.reshape(heads, count // heads // 2, 2, width)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(count, width)


def llama_config(reader, attention):
    """The LlamaConfig that the file's metadata describe."""
    from transformers import LlamaConfig

    heads = field(reader, "llama.attention.head_count")
    width = field(reader, "llama.embedding_length")
    if field(reader, "llama.rope.dimension_count") != width // heads:
        raise GoldenError("the file rotates only part of each head; Hugging Face's Llama cannot")
    unsupported = [name for name in reader.fields if name.startswith("llama.rope.scaling")]
    if unsupported or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise GoldenError(f"the file scales RoPE {unsupported}; this script knows only plain RoPE")
    return LlamaConfig(
        vocab_size=field(reader, "llama.vocab_size"),
        hidden_size=width,
        intermediate_size=field(reader, "llama.feed_forward_length"),
        num_hidden_layers=field(reader, "llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=field(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=field(reader, "llama.context_length"),
        rms_norm_eps=float(field(reader, "llama.attention.layer_norm_rms_epsilon")),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(field(reader, "llama.rope.freq_base")),
        },
        tie_word_embeddings=not any(tensor.name == "output.weight" for tensor in reader.tensors),
        hidden_act="silu",
        attn_implementation=attention,
    )


BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_model(reader, weights, attention="eager"):
    """A LlamaForCausalLM with exactly the dequantized float32 weights, strictly loaded."""
    import torch
    from transformers import LlamaForCausalLM

    config = llama_config(reader, attention)
    state = {}
    for name, rows in weights.items():
        if name == "token_embd.weight":
            state["model.embed_tokens.weight"] = rows
            if config.tie_word_embeddings:
                state["lm_head.weight"] = rows
        elif name == "output.weight":
            state["lm_head.weight"] = rows
        elif name == "output_norm.weight":
            state["model.norm.weight"] = rows
        else:
            prefix, block, part, suffix = name.split(".")
            if prefix != "blk" or part not in BLOCK_NAMES or suffix != "weight":
                raise GoldenError(f"the file holds a tensor {name}, which a Llama does not have")
            if part == "attn_q":
                rows = halves_from_pairs(rows, config.num_attention_heads)
            if part == "attn_k":
                rows = halves_from_pairs(rows, config.num_key_value_heads)
            state[f"model.layers.{block}.{BLOCK_NAMES[part]}.weight"] = rows
    torch.set_default_dtype(torch.float32)
    model = LlamaForCausalLM(config)
    state = {name: torch.from_numpy(np.array(rows)) for name, rows in state.items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise GoldenError(f"the file's tensors are not this Llama's: {error}") from error
    return model.eval()


def hf_tokenizer(reader, special):
    """A byte-level BPE from the file's vocabulary and merges.

    With special, the file's control tokens are recognised inside text; without, the tokenizer has
    no added tokens at all, so their names are ordinary text.
    """
    kind = (field(reader, "tokenizer.ggml.model"), field(reader, "tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise GoldenError(f"the file's tokenizer is {kind}; only ('gpt2', 'smollm') is known")
    tokens = field(reader, "tokenizer.ggml.tokens")
    if tuple(tokens[i] for i in END_IDS) != END_NAMES:
        raise GoldenError(f"ids {END_IDS} are not {END_NAMES} in this file: other end ids apply")
    merges = [tuple(line.split(" ")) for line in field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if special:
        types = field(reader, "tokenizer.ggml.token_type")
        control = [tokens[i] for i, kind in enumerate(types) if kind == CONTROL_TOKEN_TYPE]
        tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in control]
        )
        if tokenizer.get_vocab_size() != len(tokens):
            raise GoldenError("a control token is missing from the file's vocabulary")
    return tokenizer


def origin(packages, command):
    """What every golden file says of its own making."""
    return {
        "versions": {
            "python": sys.version.split()[0],
            **{package: importlib.metadata.version(package) for package in packages},
        },
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "command": command,
    }


def header(model_path, packages, command):
    """The same and the packaged model."""
    with open(model_path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return origin(packages, command) | {
        "model": os.path.basename(model_path),
        "model_sha256": digest,
    }


def check_writable(path):
    """Refuses an output path before minutes of work go into what it shall hold."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise GoldenError(f"cannot write {path}: name a file in a folder that can be written to")


def write_lines(path, head, cases):
    """{"header": ..., "cases": [...]} with one case a line; pure ASCII."""
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    try:
        with open(path, "w", encoding="ascii") as stream:
            stream.write(f'{{"header":{json.dumps(head)},\n"cases":[\n{lines}\n]}}\n')
    except OSError as error:
        raise GoldenError(f"cannot write {path}: {error.strerror}") from error
    progress(f"wrote {path}: {len(cases)} cases, {os.path.getsize(path)} bytes")
