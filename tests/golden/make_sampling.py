#!/usr/bin/env python3
"""Writes smollm2_sampling.json: greedy answers under the sampler's parameters, and log-probabilities
of prompts, by Hugging Face in float32.

The prompts are cases of smollm2_generation.json. Penalties and masks are transformers' own
LogitsProcessors, in the order in which generate() puts them; it has none for presence and frequency
penalties, so that formula (OpenAI's: logit - count * frequency - (count > 0) * presence) is here.
"""

import argparse
import json
import os
import sys

import reference_model
from reference_model import END_IDS, GoldenError, progress

PACKAGES = ("torch", "transformers", "tokenizers", "gguf", "numpy")
MAX_TOKENS = 24
TOP = 4


def frequency_and_presence(prompt_tokens, frequency, presence):
    """A logits processor of the two penalties that transformers does not have."""
    import torch

    def process(ids, scores):
        counts = torch.bincount(ids[0, prompt_tokens:], minlength=scores.shape[1]).float()
        return scores - counts * frequency - (counts > 0).float() * presence

    return process


def processors(parameters, prompt_tokens):
    """What generate() would make of the parameters, in its order."""
    import transformers as hf

    found = []
    if bias := parameters.get("logit_bias"):
        found.append(hf.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias]))
    if penalty := parameters.get("repetition_penalty"):
        found.append(hf.RepetitionPenaltyLogitsProcessor(penalty))
    if "frequency_penalty" in parameters or "presence_penalty" in parameters:
        found.append(
            frequency_and_presence(
                prompt_tokens,
                parameters.get("frequency_penalty", 0.0),
                parameters.get("presence_penalty", 0.0),
            )
        )
    if words := parameters.get("bad_words"):
        found.append(hf.NoBadWordsLogitsProcessor(words))
    if count := parameters.get("min_tokens"):
        found.append(
            hf.MinNewTokensLengthLogitsProcessor(prompt_tokens, count, list(END_IDS), "cpu")
        )
    return found


def generate(model, prompt, variants):
    """For each set of parameters the greedy ids, their log-probabilities before any processor, and
    the gaps after all. The sets share their prompt, so they run as the rows of one batch."""
    import torch

    steps = [processors(parameters, len(prompt)) for parameters in variants]
    ids = torch.tensor([prompt] * len(variants))
    found = [([], [], []) for _ in variants]
    ended = [False] * len(variants)
    out = model(ids, use_cache=True, logits_to_keep=1)
    while not all(ended) and ids.shape[1] - len(prompt) < MAX_TOKENS:
        logits = out.logits[:, -1]
        logprobs = torch.log_softmax(logits.double(), -1)
        chosen = []
        for row, row_steps in enumerate(steps):
            scores = logits[row : row + 1].clone()
            for step in row_steps:
                scores = step(ids[row : row + 1], scores)
            top = torch.topk(scores[0], 2)
            token = int(top.indices[0])
            chosen.append([token])
            if ended[row]:
                continue
            found[row][0].append(token)
            found[row][1].append(float(logprobs[row, token]))
            found[row][2].append(min(float(top.values[0] - top.values[1]), 1e6))
            ended[row] = token in END_IDS
        step = torch.tensor(chosen)
        ids = torch.cat([ids, step], 1)
        out = model(step, past_key_values=out.past_key_values, use_cache=True)
    return found


def variants(prompt, plain):
    """(name, parameters) of one prompt, whose greedy answer is `plain`."""
    often = max(set(plain), key=plain.count)
    yield "repetition", {"repetition_penalty": 1.3}
    yield "repetition_below_1", {"repetition_penalty": 0.9}
    yield "presence", {"presence_penalty": 1.5}
    yield "frequency", {"frequency_penalty": 0.8}
    yield "bias", {"logit_bias": sorted([[often, -3.0], [plain[0], -4.5], [260, 2.5]])}
    words = [[plain[0]], [prompt[-1], often]]
    words += [plain[i : i + 2] for i in range(1, min(len(plain) - 1, 12), 3)]
    yield "bad_words", {"bad_words": words}
    yield "bad_word_begun_in_prompt", {"bad_words": [[prompt[-1], plain[0]]]}
    yield "min_tokens", {"min_tokens": len(plain) + 4}
    yield (
        "all",
        {
            "logit_bias": sorted([[often, 1.0], [198, 0.75]]),
            "repetition_penalty": 1.15,
            "presence_penalty": 0.4,
            "frequency_penalty": 0.3,
            "bad_words": [[plain[0]], plain[1:3]] if len(plain) > 2 else [[plain[0]]],
            "min_tokens": 20,
        },
    )


ANSWERED = ("english_capital", "english_recipe", "question", "chat_capital", "json_object", "chinese")
TOLD = ("english_story", "code_python", "ids_random_65", "chat_turns", "one_word", "long_300_story")


def without_repeats(variant):
    """Biases name a token once: where two of one prompt fall together, the later one is dropped."""
    name, parameters = variant
    if "logit_bias" in parameters:
        parameters["logit_bias"] = sorted(
            [token, value] for token, value in dict(reversed(parameters["logit_bias"])).items()
        )
    return name, parameters


def build_cases(model, cases):
    """The answers under each set of parameters."""
    built = []
    for case in (cases[name] for name in ANSWERED):
        prompt, plain = case["prompt_ids"], case["ids"][:MAX_TOKENS]
        sets = [without_repeats(variant) for variant in variants(prompt, plain)]
        answers = generate(model, prompt, [parameters for _, parameters in sets])
        for (name, parameters), (ids, logprobs, gaps) in zip(sets, answers):
            if ids == plain:
                progress(f"{case['name']} {name}: the same answer as without")
            built.append(
                {
                    "name": f"{case['name']} {name}",
                    "prompt_ids": prompt,
                    "parameters": parameters,
                    "max_tokens": MAX_TOKENS,
                    "ids": ids,
                    "logprobs": [round(value, 6) for value in logprobs],
                    "gaps": [round(value, 6) for value in gaps],
                    "changed": ids != plain,
                }
            )
            progress(f"{built[-1]['name']}: {len(ids)} tokens, smallest gap {min(gaps):.4f}")
    return built


def build_prompts(model, cases):
    """Each prompt's log-probabilities: of its own tokens from the second on, and of the likeliest."""
    import torch

    built = []
    for case in (cases[name] for name in TOLD):
        prompt = case["prompt_ids"] + (case["ids"][:8] if len(case["prompt_ids"]) == 1 else [])
        rows = torch.log_softmax(model(torch.tensor([prompt])).logits[0, :-1].double(), -1)
        own = rows[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
        top = torch.topk(rows, TOP)
        built.append(
            {
                "name": case["name"],
                "prompt_ids": prompt,
                "prompt_logprobs": [round(value, 5) for value in own.tolist()],
                "top_ids": top.indices.tolist(),
                "top_logprobs": [[round(v, 5) for v in row] for row in top.values.tolist()],
            }
        )
        progress(f"{case['name']}: {len(prompt)} tokens told")
    return built


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the packaged GGUF file")
    parser.add_argument("output", help="the file to write, smollm2_sampling.json")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.threads < 1:
        raise GoldenError("--threads must be at least 1")
    reference_model.check_writable(arguments.output)
    import torch

    torch.set_num_threads(arguments.threads)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "smollm2_generation.json")
    with open(path, encoding="ascii") as stream:
        cases = {case["name"]: case for case in json.load(stream)["cases"]}
    reader = reference_model.open_gguf(arguments.model)
    progress("loading the model")
    model = reference_model.hf_model(reader, reference_model.dequantized(reader))
    with torch.inference_mode():
        built = build_cases(model, cases) + build_prompts(model, cases)
    header = reference_model.header(
        arguments.model, PACKAGES, "python3 make_sampling.py MODEL smollm2_sampling.json"
    )
    header["end_ids"] = list(END_IDS)
    header["cases"] = len(built)
    reference_model.write_lines(arguments.output, header, built)


if __name__ == "__main__":
    try:
        main()
    except GoldenError as error:
        sys.exit(f"make_sampling: {error}")
