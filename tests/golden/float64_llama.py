"""A Llama forward pass in float64 that shares nothing with Hugging Face's.

It runs on the file's own row order and rotates pairs (2i, 2i+1) directly, so it also proves the
re-ordering of query and key rows that the Hugging Face model needs. Every intermediate value is
float64, where Hugging Face's norms and softmax fall back to float32. Slow and plain on purpose.
"""

import torch

from reference_model import field


class Float64Llama:
    """The packaged model, whole sequences only; not for threads."""

    def __init__(self, reader, weights):
        self.weights = {name: torch.from_numpy(rows.copy()) for name, rows in weights.items()}
        self.blocks = field(reader, "llama.block_count")
        self.heads = field(reader, "llama.attention.head_count")
        self.kv_heads = field(reader, "llama.attention.head_count_kv")
        self.epsilon = float(field(reader, "llama.attention.layer_norm_rms_epsilon"))
        self.theta = float(field(reader, "llama.rope.freq_base"))

    def logits(self, ids, first):
        """Logits [len(ids) - first, vocabulary] of the positions from first on."""
        x = self.weights["token_embd.weight"][torch.tensor(ids)].double()
        for block in range(self.blocks):
            x = x + self.attention(self.norm(x, f"blk.{block}.attn_norm"), block)
            x = x + self.feed_forward(self.norm(x, f"blk.{block}.ffn_norm"), block)
        head = "output" if "output.weight" in self.weights else "token_embd"
        return self.linear(self.norm(x[first:], "output_norm"), head)

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].double().T

    def norm(self, x, name):
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)
        return x * scale * self.weights[f"{name}.weight"].double()

    def rotate(self, x):
        """RoPE on x [heads, positions, head_dim]: pair i turns by position * theta^(-2i/dim)."""
        _, count, dim = x.shape
        power = torch.arange(0, dim, 2, dtype=torch.float64) / dim
        angle = torch.arange(count, dtype=torch.float64)[:, None] * self.theta**-power
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
        return torch.stack(turned, -1).flatten(-2)

    def split(self, x, heads):
        return x.view(len(x), heads, -1).transpose(0, 1)

    def attention(self, x, block):
        query = self.rotate(self.split(self.linear(x, f"blk.{block}.attn_q"), self.heads))
        key = self.rotate(self.split(self.linear(x, f"blk.{block}.attn_k"), self.kv_heads))
        value = self.split(self.linear(x, f"blk.{block}.attn_v"), self.kv_heads)
        group = self.heads // self.kv_heads
        future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        mixed = []
        for head in range(self.heads):
            scores = query[head] @ key[head // group].T / query.shape[-1] ** 0.5
            scores = scores.masked_fill(future, -torch.inf)
            mixed.append(scores.softmax(-1) @ value[head // group])
        return self.linear(torch.cat(mixed, -1), f"blk.{block}.attn_output")

    def feed_forward(self, x, block):
        gate = self.linear(x, f"blk.{block}.ffn_gate")
        up = self.linear(x, f"blk.{block}.ffn_up")
        return self.linear(torch.nn.functional.silu(gate) * up, f"blk.{block}.ffn_down")
