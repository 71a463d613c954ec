#!/usr/bin/env python3
"""Writes families/<name>/: a tiny random model of each family as transformers saves it, and
reference.json with what transformers computes from it in float32.

Every case is checked, before its reference is written, against a float64 forward pass that is not
transformers' (float64_family.py): logits within 1e-5 of their size, the same greedy ids; and that
pass shows that the family's feature matters: without it, logits are elsewhere.
"""

import argparse
import json
import os
import shutil
import sys

import reference_model
from reference_model import GoldenError, progress

PACKAGES = ("torch", "transformers", "safetensors", "numpy")
VOCABULARY = 128
CONTEXT = 192
PROMPT = 110
ANSWER = 24
POSITIONS = [0, 1, 15, 16, 17, 40, 63, 64, 80, 100, PROMPT - 1]
LEAST_GAP = 5e-3  # of the two best logits at each greedy step, so that no rounding decides
LEAST_KINDS = 8  # of ids in an answer: one that repeats itself says little
LEAST_EFFECT = 0.05  # what leaving a feature out has to change somewhere in the logits

COMMON = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def rope(theta, **scaling):
    return {"rope_type": "default", "rope_theta": theta} | scaling


# Class, dtype of the file, largest shard, features that must matter, and the config.
FAMILIES = {
    "llama2": ("Llama", "float32", None, [], {
        "hidden_size": 48, "intermediate_size": 64, "head_dim": 64,
        "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False,
        "rope_parameters": rope(10000.0),
    }),
    "llama3": ("Llama", "bfloat16", "60KB", ["scaling"], {
        "hidden_size": 48, "intermediate_size": 80, "head_dim": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
        "rope_parameters": rope(
            500000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    }),
    "llama_linear": ("Llama", "float16", None, ["scaling"], {
        "hidden_size": 32, "intermediate_size": 64, "head_dim": 96,
        "num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": False,
        "rope_parameters": rope(10000.0, rope_type="linear", factor=4.0),
    }),
    "mistral": ("Mistral", "bfloat16", None, ["window"], {
        "hidden_size": 64, "intermediate_size": 64, "head_dim": 128,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False,
        "sliding_window": 16, "rope_parameters": rope(10000.0),
    }),
    "qwen2": ("Qwen2", "bfloat16", None, ["bias"], {
        "hidden_size": 128, "intermediate_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True,
        "use_sliding_window": False, "rope_parameters": rope(1000000.0),
    }),
    "qwen3": ("Qwen3", "bfloat16", None, ["qk_norm"], {
        "hidden_size": 32, "intermediate_size": 48, "head_dim": 128,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "attention_bias": False, "rms_norm_eps": 1e-6, "rope_parameters": rope(1000000.0),
    }),
    "smollm2": ("Llama", "float32", "120KB", [], {
        "hidden_size": 48, "intermediate_size": 64, "head_dim": 64,
        "num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True,
        "rope_parameters": rope(100000.0),
    }),
}


def random_weights(model, generator):
    """Values at which every part of the model matters: the usual ones of 0.02 would hide most."""
    import torch

    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            parameter.copy_(1 + 0.3 * noise)
        elif name.endswith(".bias"):
            parameter.copy_((0.1 if "v_proj" in name else 0.7) * noise)
        elif "embed_tokens" in name or "lm_head" in name:
            parameter.copy_(0.15 * noise)
        else:
            sharp = 1.3 if "q_proj" in name or "k_proj" in name else 1.0
            parameter.copy_(sharp * noise / parameter.shape[1] ** 0.5)


def save(name, folder, seed):
    """Makes a model and saves it as transformers does."""
    import torch
    import transformers

    family, dtype, shard, _, settings = FAMILIES[name]
    config = getattr(transformers, f"{family}Config")(**(COMMON | settings))
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    random_weights(model, torch.Generator().manual_seed(seed))
    model = model.to(getattr(torch, dtype))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))


def load(name, folder):
    """The saved model with float32 arithmetic, its tensors as they lie in the files, its config."""
    import torch
    import transformers
    from safetensors.torch import load_file

    model = getattr(transformers, f"{FAMILIES[name][0]}ForCausalLM").from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    tensors = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            tensors |= load_file(os.path.join(folder, file))
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as stream:
        return model.eval(), tensors, json.load(stream)


def greedy(model, prompt):
    """Greedy ids after the prompt, the gap of the two best logits at each, and all logits."""
    import torch

    ids, gaps = list(prompt), []
    while True:
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        if len(ids) == PROMPT + ANSWER:
            return ids[PROMPT:], gaps, logits
        top = torch.topk(logits[-1], 2)
        gaps.append(float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))


def check_float64(name, config, tensors, ids, logits):
    """Fails unless float64 agrees and the family's features matter; returns how far it parts."""
    from float64_family import Float64Family

    truth = Float64Family(config, tensors).logits(ids)
    difference = float((truth - logits.double()).abs().max())
    size = float(truth.abs().max())
    if difference > 1e-5 * size:
        raise GoldenError(f"{name}: float32 is {difference} from float64, logits are up to {size}")
    if truth[PROMPT - 1 : -1].argmax(-1).tolist() != ids[PROMPT:]:
        raise GoldenError(f"{name}: float64 has other greedy ids: choose another seed")
    for feature in FAMILIES[name][3]:
        effect = (Float64Family(config, tensors, [feature]).logits(ids) - truth).abs()
        if float(effect.max()) < LEAST_EFFECT:
            raise GoldenError(f"{name}: {feature} changes no logit by {LEAST_EFFECT}")
    return difference


def draw(name, folder):
    """Saves a model and draws a prompt whose answer is worth comparing; all that belongs to it."""
    import torch

    for seed in range(100):
        save(name, folder, seed)
        model, tensors, config = load(name, folder)
        generator = torch.Generator().manual_seed(1000 + seed)
        prompt = torch.randint(3, VOCABULARY, (PROMPT,), generator=generator).tolist()
        answer, gaps, logits = greedy(model, prompt)
        if min(gaps) >= LEAST_GAP and len(set(answer)) >= LEAST_KINDS:
            return seed, model, tensors, config, prompt, answer, min(gaps), logits
    raise GoldenError(f"{name}: every answer has a near tie or repeats itself")


def reference(name, folder, header):
    """Makes a model below `folder`; what its reference.json holds."""
    seed, model, tensors, config, prompt, answer, gap, logits = draw(name, folder)
    difference = check_float64(name, config, tensors, prompt + answer, logits)
    size = sum(os.path.getsize(os.path.join(folder, file)) for file in os.listdir(folder))
    progress(
        f"{name}: seed {seed}, smallest gap {gap:.3f}, float64 {difference:.1e}, logits up to "
        f"{float(logits.abs().max()):.1f}, {size} bytes"
    )
    rows = [*POSITIONS, PROMPT + ANSWER - 1]
    return {
        "header": header | {"float64_difference": float(f"{difference:.2g}")},
        "features": FAMILIES[name][3],
        "frequencies": [float(f"{float(f):.9g}") for f in model.model.rotary_emb.inv_freq],
        "prompt": prompt,
        "answer": answer,
        "smallest_gap": round(gap, 4),
        "positions": rows,
        "logits": [[round(float(value), 5) for value in logits[row]] for row in rows],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="the folder to write into, families")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    os.makedirs(arguments.output, exist_ok=True)
    header = reference_model.origin(PACKAGES, "python3 make_families.py families")
    with torch.inference_mode():
        for name in FAMILIES:
            folder = os.path.join(arguments.output, name)
            case = reference(name, folder, header)
            with open(os.path.join(folder, "reference.json"), "w", encoding="ascii") as stream:
                stream.write("{\n" + ",\n".join(
                    f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}"
                    for key, value in case.items()) + "\n}\n")


if __name__ == "__main__":
    try:
        main()
    except GoldenError as error:
        sys.exit(f"make_families: {error}")
