#!/usr/bin/env python3
"""Writes smollm2_generation.json: what Hugging Face generates greedily, float32, for fixed prompts.

The model is the packaged GGUF, dequantized. Every case is checked, before anything is written,
against a float64 forward pass of its own (float64_llama.py): the same ids, at every step.
"""

import argparse
import json
import sys

import generation_prompts
import reference_model
from reference_model import END_IDS, GoldenError, progress

LOGIT_IDS = 128
CLOSE = 1e-3  # Two logits nearer than this may change places in another float32 implementation.
PACKAGES = ("torch", "transformers", "tokenizers", "gguf", "numpy")


def prompt_ids(prompt, tokenizers):
    """The prompt as ids, and its text (cut at a token, where the prompt asks for a length)."""
    if prompt.ids is not None:
        return prompt.ids, None
    tokenizer = tokenizers[prompt.special]
    ids, text = tokenizer.encode(prompt.text).ids, prompt.text
    if prompt.tokens is None:
        return ids, text
    if len(ids) < prompt.tokens:
        raise GoldenError(f"{prompt.name}: its text has {len(ids)} tokens, not {prompt.tokens}")
    ids = ids[: prompt.tokens]
    text = tokenizer.decode(ids, skip_special_tokens=False)
    if tokenizer.encode(text).ids != ids:
        raise GoldenError(f"{prompt.name}: cut at {prompt.tokens}, its text gives other ids")
    return ids, text


def generate(model, ids, max_tokens):
    """Greedy decoding with Hugging Face's own cache: ids, log-probabilities, gaps, first logits."""
    import torch

    out = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
    first = out.logits[0, -1].clone()
    generated, logprobs, gaps = [], [], []
    while True:
        logits = out.logits[0, -1]
        top = torch.topk(logits, 2)
        token = int(top.indices[0])
        generated.append(token)
        logprobs.append(float(torch.log_softmax(logits.double(), -1)[token]))
        gaps.append(float(top.values[0] - top.values[1]))
        if token in END_IDS or len(generated) == max_tokens:
            return generated, logprobs, gaps, first
        step = torch.tensor([[token]])
        out = model(step, past_key_values=out.past_key_values, use_cache=True)


def check_float64(float64, case):
    """Fails unless float64 picks each of the case's ids; returns how far log-probabilities part.

    One pass over prompt and answer shows all steps: where every earlier id agrees, the next is what
    a greedy float64 run would generate.
    """
    import torch

    prompt, ids = case["prompt_ids"], case["ids"]
    logits = float64.logits(prompt + ids[:-1], len(prompt) - 1)
    for step, best in enumerate(logits.argmax(-1).tolist()):
        if best != ids[step]:
            raise GoldenError(
                f"{case['name']}: at step {step} float64 picks {best}, float32 {ids[step]} "
                f"(float32's gap is {case['gaps'][step]}): choose another prompt"
            )
    logprobs = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
    return float((logprobs - torch.tensor(case["logprobs"], dtype=torch.float64)).abs().max())


def build_cases(reader, arguments):
    """All cases, and the largest difference of a log-probability between float32 and float64."""
    import torch
    from float64_llama import Float64Llama

    torch.set_num_threads(arguments.threads)
    progress("loading the model")
    tokenizers = {flag: reference_model.hf_tokenizer(reader, flag) for flag in (False, True)}
    weights = reference_model.dequantized(reader)
    model = reference_model.hf_model(reader, weights)
    float64 = Float64Llama(reader, weights)
    stride = model.config.vocab_size // LOGIT_IDS
    logit_ids = list(range(stride // 2, stride * LOGIT_IDS, stride))
    prompts = generation_prompts.all_prompts()
    cases, apart = [], 0.0
    for index, prompt in enumerate(prompts):
        ids, text = prompt_ids(prompt, tokenizers)
        generated, logprobs, gaps, first = generate(model, ids, prompt.max_tokens)
        case = {
            "name": prompt.name,
            "text": text,
            "special": prompt.special,
            "prompt_ids": ids,
            "max_tokens": prompt.max_tokens,
            "ids": generated,
            "logprobs": [round(value, 6) for value in logprobs],
            "gaps": [round(value, 6) for value in gaps],
        }
        if prompt.first_logits:
            case["first_logits"] = {
                "ids": logit_ids,
                "values": [round(float(first[i]), 6) for i in logit_ids],
            }
        difference = check_float64(float64, case)
        case["float64_difference"] = float(f"{difference:.2g}")
        apart = max(apart, difference)
        progress(
            f"{index + 1}/{len(prompts)} {prompt.name}: {len(ids)} + {len(generated)} tokens, "
            f"ends with {generated[-1]}, smallest gap {min(gaps):.4f}, float64 {difference:.1e}: "
            + repr(tokenizers[True].decode(generated)[:50])
        )
        cases.append(case)
    return cases, apart


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the packaged GGUF file")
    parser.add_argument("output", help="the file to write, smollm2_generation.json")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.threads < 1:
        raise GoldenError("--threads must be at least 1")
    reference_model.check_writable(arguments.output)
    import torch

    reader = reference_model.open_gguf(arguments.model)
    with torch.inference_mode():
        cases, apart = build_cases(reader, arguments)
    header = reference_model.header(
        arguments.model, PACKAGES, "python3 make_generation.py MODEL smollm2_generation.json"
    )
    header["end_ids"] = list(END_IDS)
    header["cases"] = len(cases)
    header["steps"] = sum(len(case["ids"]) for case in cases)
    header["steps_closer_than_1e-3"] = sum(g < CLOSE for case in cases for g in case["gaps"])
    header["float64_same_ids"] = f"{len(cases)} of {len(cases)}"
    header["float64_max_difference"] = float(f"{apart:.2g}")
    reference_model.write_lines(arguments.output, header, cases)


if __name__ == "__main__":
    try:
        main()
    except GoldenError as error:
        sys.exit(f"make_generation: {error}")
