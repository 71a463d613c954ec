#!/usr/bin/env python3
"""PyTorch's scaled_dot_product_attention at the shapes of cuda_attention_bench, in bf16: the best of
its back ends (cuDNN, FlashAttention) stands beside ours when both run in one call. Prints one JSON
line a case and back end.

  peer_attention.py [cudnn | flash ...]
"""
import json
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
PREFILL = [  # batch, heads, kv heads, tokens, head dim
    (1, 32, 8, 1024, 128), (1, 32, 8, 2048, 128), (1, 32, 8, 4096, 128), (1, 32, 8, 8192, 128),
    (1, 32, 8, 16384, 128), (1, 32, 32, 4096, 128), (1, 32, 32, 8192, 128), (4, 32, 32, 2048, 128),
    (1, 32, 8, 4096, 64), (1, 32, 32, 4096, 96),
]


def median_us(call, calls=5, runs=7):
    """Of a replayed graph of some calls, as our benchmark does."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    times = []
    for run in range(-2, runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if run >= 0:
            times.append(begin.elapsed_time(end) * 1e3 / calls)
    return sorted(times)[len(times) // 2]


def main():
    torch.manual_seed(0)
    print(json.dumps({"torch": torch.__version__, "gpu": torch.cuda.get_device_name()}))
    for batch, heads, kv_heads, tokens, head_dim in PREFILL:
        q = torch.randn(batch, heads, tokens, head_dim, device="cuda", dtype=torch.bfloat16)
        k, v = (torch.randn(batch, kv_heads, tokens, head_dim, device="cuda", dtype=torch.bfloat16)
                for _ in range(2))
        flops = 2 * batch * heads * head_dim * tokens * (tokens + 1)
        for name, backend in BACKENDS.items():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue

            def call():
                F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)
            try:
                with sdpa_kernel(backend):
                    us = median_us(call)
                line = {"us": round(us, 1), "tflop_s": round(flops / us * 1e-6, 1)}
            except RuntimeError as error:
                line = {"error": str(error).split("\n")[0][:80]}
            print(json.dumps({"peer": f"torch {name}", "heads": f"{heads}/{kv_heads} x {head_dim}",
                              "case": f"{batch}x{tokens}", **line}), flush=True)


if __name__ == "__main__":
    main()
