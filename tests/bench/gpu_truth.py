#!/usr/bin/env python3
"""Whether the GPU tells the truth, by the served program: answers of a real model against those
that Hugging Face gave in float32 (tests/golden), and random models of true widths, saved by
transformers, against Hugging Face on the same GPU.

  gpu_truth.py --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf     # needs no torch
  gpu_truth.py --random llama-2-7b llama-3-8b                # needs torch and transformers

Real model: each token of an answer is fed and the next one predicted (teacher-forced); at least
99.5 % of the predictions are the reference's, and where one is not, the reference's two best were
within 0.125 nat. Random model: the error of our log-probabilities of a prompt's and an answer's
tokens, against float32, is at most 1.1 of Hugging Face's in bfloat16, for an answer that is decoded
alone and for one of many in a batch; where our likeliest token is not float32's, float32's two best
are within 0.125 nat. Ends with 1 where a gate is not met.
"""
import argparse
import concurrent.futures
import json
import pathlib
import random
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
import program  # noqa: E402

NEAR_TIE = 0.125  # nat
BATCH = 10  # answers of each prompt at once: steps of some 40 tokens
TOP_1 = 0.995
ERROR_RATIO = 1.1
WIDTHS = {
    "llama-2-7b": dict(hidden_size=4096, intermediate_size=11008, num_attention_heads=32,
                       num_key_value_heads=32, vocab_size=32000, rope_theta=10000.0),
    "llama-3-8b": dict(hidden_size=4096, intermediate_size=14336, num_attention_heads=32,
                       num_key_value_heads=8, vocab_size=128256, rope_theta=500000.0),
}


def ids_text(ids):
    return ",".join(map(str, ids))


def teacher_forced(server, ids):
    """By position from 1 on: the log-probability of its token, and the likeliest token there."""
    answer = program.generate("--prompt-ids", ids_text(ids), "--prompt-logprobs", "1",
                              "--max-tokens", "1", server=server)
    told = answer["prompt_logprobs"]
    assert [each["id"] for each in told] == ids[1:], "other tokens came back"
    return [(each["logprob"], each["top"][0]["id"]) for each in told]


class Gates:
    def __init__(self):
        self.failed = []

    def check(self, is_met, text):
        print(f"{'met   ' if is_met else 'FAILED'} {text}", flush=True)
        if not is_met:
            self.failed.append(text)


def check_smollm2(model, flags, gates):
    golden = json.loads((ROOT / "tests/golden/smollm2_generation.json").read_text())
    predictions = misses = 0
    widest = worst = 0.0
    server = program.Server(*flags, model=model)
    try:
        for case in golden["cases"]:
            prompt = case["prompt_ids"]
            told = teacher_forced(server, prompt + case["ids"])[len(prompt) - 1:]
            steps = zip(told, case["ids"], case["logprobs"], case["gaps"], strict=True)
            for (logprob, likeliest), token, reference, gap in steps:
                predictions += 1
                worst = max(worst, abs(logprob - reference))
                if likeliest != token:
                    misses += 1
                    widest = max(widest, gap)
    finally:
        server.close()
    share = 1 - misses / predictions
    print(f"SmolLM2: {predictions} predictions, {misses} misses, log-probabilities differ by "
          f"{worst:.3f} at most")
    gates.check(share >= TOP_1, f"SmolLM2 top-1 {share:.4f} (at least {TOP_1})")
    gates.check(widest <= NEAR_TIE, f"SmolLM2 widest gap of a miss {widest:.4f} nat "
                f"(at most {NEAR_TIE})")


def write_tokenizer(folder):
    """A byte a token; ids beyond are unused."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    vocab = {letters[byte]: byte for byte in range(256)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    pathlib.Path(folder, "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": byte_level,
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}}))


def make_random_model(name, layers, folder):
    import torch
    import transformers
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        num_hidden_layers=layers, max_position_embeddings=4096, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16", **WIDTHS[name])
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:  # else all gains are 1
                    parameter.uniform_(0.5, 1.5)
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder)
    write_tokenizer(folder)


def reference_logits(folder, dtype, sequences):
    """Of each sequence [tokens, vocabulary] in float32, on the host."""
    import torch
    import transformers
    model = transformers.LlamaForCausalLM.from_pretrained(folder, torch_dtype=dtype).to("cuda")
    model.eval()
    with torch.no_grad():
        logits = [model(torch.tensor([ids], device="cuda")).logits[0].float().cpu()
                  for ids in sequences]
    del model
    torch.cuda.empty_cache()
    return logits


def ask_together(server, prompts):
    """An answer to each prompt, BATCH of each being decoded at once."""
    def ask(prompt):
        return program.generate("--prompt-ids", ids_text(prompt), "--max-tokens", "64",
                                server=server)
    with concurrent.futures.ThreadPoolExecutor(BATCH * len(prompts)) as pool:
        return list(pool.map(ask, prompts * BATCH))[:len(prompts)]


def check_random(name, args, flags, gates):
    import torch
    torch.backends.cuda.matmul.allow_tf32 = False
    with tempfile.TemporaryDirectory(prefix="penstock-truth-", dir=args.scratch) as folder:
        make_random_model(name, args.layers, folder)
        drawn = random.Random(1)
        vocabulary = WIDTHS[name]["vocab_size"]
        prompts = [[drawn.randrange(3, vocabulary) for _ in range(length)]
                   for length in (1, 33, 200, 512)]
        server = program.Server(*flags, model=folder)
        try:
            answers = [program.generate("--prompt-ids", ids_text(prompt), "--max-tokens", "64",
                                        server=server) for prompt in prompts]
            ways = ["decode"] * len(prompts) + ["decode in a batch"] * len(prompts)
            answers += ask_together(server, prompts)
            prompts += prompts
            sequences = [prompt + answer["ids"]
                         for prompt, answer in zip(prompts, answers, strict=True)]
            told = [teacher_forced(server, ids) for ids in sequences]
        finally:
            server.close()
        exact = reference_logits(folder, torch.float32, sequences)
        rounded = reference_logits(folder, torch.bfloat16, sequences)

    # Ours, Hugging Face's in bfloat16.
    errors = {"prefill": [], "decode": [], "decode in a batch": []}
    positions = misses = 0
    widest = 0.0
    for way, prompt, ids, answer, ours, full, half in zip(ways, prompts, sequences, answers, told,
                                                          exact, rounded, strict=True):
        targets = torch.tensor(ids[1:])[:, None]
        truth = full.log_softmax(-1)[:-1].gather(1, targets)[:, 0].double()
        theirs = half.log_softmax(-1)[:-1].gather(1, targets)[:, 0].double()
        best = full[:-1].topk(2)
        fed = torch.tensor([logprob for logprob, _ in ours], dtype=torch.float64)
        errors["prefill"] += zip((fed - truth).tolist(), (theirs - truth).tolist())
        begin = len(prompt) - 1
        decoded = torch.tensor(answer["logprobs"], dtype=torch.float64)
        errors[way] += zip((decoded - truth[begin:]).tolist(),
                           (theirs - truth)[begin:].tolist())
        likeliest = [token for _, token in ours]
        for position, token in [*enumerate(likeliest), *enumerate(ids[len(prompt):], begin)]:
            positions += 1
            if token != best.indices[position, 0].item():
                misses += 1
                gap = (best.values[position, 0] - best.values[position, 1]).item()
                widest = max(widest, gap)
    print(f"{name}, {args.layers} layers: {positions} tokens, {misses} others than float32's")
    gates.check(widest <= NEAR_TIE,
                f"{name} widest gap of another token {widest:.4f} nat (at most {NEAR_TIE})")
    for way, pairs in errors.items():
        ours, theirs = ((sum(value ** 2 for value in side) / len(pairs)) ** 0.5
                        for side in zip(*pairs, strict=True))
        gates.check(ours <= ERROR_RATIO * theirs,
                    f"{name} {way}: error {ours:.5f} nat, Hugging Face in bfloat16 {theirs:.5f}, "
                    f"ratio {ours / theirs:.3f} (at most {ERROR_RATIO})")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", metavar="FILE", help="the packaged model")
    parser.add_argument("--random", nargs="+", choices=WIDTHS, default=[], metavar="MODEL",
                        help="widths of random models: " + ", ".join(WIDTHS))
    parser.add_argument("--layers", type=int, default=4, help="of a random model (default 4)")
    parser.add_argument("--penstock", default=str(ROOT / "build/cuda/frontend/penstock"))
    parser.add_argument("--scratch", help="folder for random models of some GB (default: /tmp)")
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="behind --: flags for the server "
                        "(default: --device cuda:0 --precision bf16)")
    args = parser.parse_args()
    if not args.smollm2 and not args.random:
        parser.error("nothing to do: give --smollm2 FILE, --random MODEL or both")
    program.BINARY = args.penstock
    flags = args.flags or ["--device", "cuda:0", "--precision", "bf16"]
    gates = Gates()
    if args.smollm2:
        check_smollm2(args.smollm2, flags, gates)
    for name in args.random:
        check_random(name, args, flags, gates)
    return 1 if gates.failed else 0


if __name__ == "__main__":
    sys.exit(main())
