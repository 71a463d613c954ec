#!/usr/bin/env python3
"""Measures how fast Hugging Face's float32 Llama is here: the figure the engine has to reach.

Prints one JSON line: decode tokens/s (batch 1, 64 tokens after a 128-token prompt) and prefill
tokens/s (512 tokens), the median of several runs, with machine and versions. No sampling, no text:
the decode loop is a forward pass and an argmax, the least that Hugging Face can do.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import statistics
import sys
import time

import reference_model

PROMPT_TOKENS = 128
NEW_TOKENS = 64
PREFILL_TOKENS = 512
FIRST_ORDINARY_ID = 17


def cpu_name():
    """The processor's name as the kernel gives it, or Python's guess."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the packaged GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    arguments = parser.parse_args()
    if arguments.threads < 1 or arguments.runs < 1:
        raise reference_model.GoldenError("--threads and --runs must be at least 1")

    import torch

    torch.set_num_threads(arguments.threads)
    reader = reference_model.open_gguf(arguments.model)
    reference_model.progress("loading the model")
    weights = reference_model.dequantized(reader)
    model = reference_model.hf_model(reader, weights, arguments.attention)
    generator = random.Random(1)
    vocabulary = model.config.vocab_size
    ids = [generator.randrange(FIRST_ORDINARY_ID, vocabulary) for _ in range(PREFILL_TOKENS)]

    def decode():
        out = model(torch.tensor([ids[:PROMPT_TOKENS]]), use_cache=True, logits_to_keep=1)
        begin = time.perf_counter()
        for _ in range(NEW_TOKENS):
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
        return NEW_TOKENS / (time.perf_counter() - begin)

    def prefill():
        begin = time.perf_counter()
        model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
        return PREFILL_TOKENS / (time.perf_counter() - begin)

    figures = {}
    with torch.inference_mode():
        for name, measure in (("decode", decode), ("prefill", prefill)):
            reference_model.progress(f"{name}: one run to warm up, then {arguments.runs}")
            measure()
            figures[name] = [measure() for _ in range(arguments.runs)]
    print(
        json.dumps(
            {
                "decode_tok_s": round(statistics.median(figures["decode"]), 2),
                "decode_runs": [round(value, 2) for value in figures["decode"]],
                "prefill_tok_s": round(statistics.median(figures["prefill"]), 1),
                "prefill_runs": [round(value, 1) for value in figures["prefill"]],
                "prompt_tokens": PROMPT_TOKENS,
                "new_tokens": NEW_TOKENS,
                "prefill_tokens": PREFILL_TOKENS,
                "batch": 1,
                "dtype": "float32",
                "attention": arguments.attention,
                "threads": arguments.threads,
                "cpu": cpu_name(),
                "cores": os.cpu_count(),
                "load_1min": round(os.getloadavg()[0], 2),
                "system": platform.platform(),
                "versions": {
                    "python": platform.python_version(),
                    **{p: importlib.metadata.version(p) for p in ("torch", "transformers", "gguf")},
                },
            }
        )
    )


if __name__ == "__main__":
    try:
        main()
    except reference_model.GoldenError as error:
        sys.exit(f"hf_speed: {error}")
