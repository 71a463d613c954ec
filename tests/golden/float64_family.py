"""A forward pass of the Llama families in float64, from a checkpoint's own tensors and config.json.

It shares nothing with transformers but the names of the tensors, and every intermediate value is
float64. Each feature can be left out, to show that a reference would notice. Slow and plain on
purpose.
"""

import math

import torch


class Float64Family:
    """Whole sequences only. `without` names features to leave out: "scaling", "window", "bias",
    "qk_norm"."""

    def __init__(self, config, tensors, without=()):
        self.tensors = {name.removeprefix("model."): rows.double() for name, rows in tensors.items()}
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.dim = config.get("head_dim") or config["hidden_size"] // self.heads
        self.epsilon = config["rms_norm_eps"]
        self.window = None if "window" in without else config.get("sliding_window")
        self.has_bias = "layers.0.self_attn.q_proj.bias" in self.tensors and "bias" not in without
        self.has_qk_norm = (
            "layers.0.self_attn.q_norm.weight" in self.tensors and "qk_norm" not in without
        )
        rope = dict(config["rope_parameters"])
        if "scaling" in without:
            rope["rope_type"] = "default"
        self.frequencies = [
            self.scaled(rope, rope["rope_theta"] ** (-2 * i / self.dim)) for i in range(self.dim // 2)
        ]

    @staticmethod
    def scaled(rope, frequency):
        """A frequency of RoPE as `rope_parameters` of config.json want it."""
        if rope["rope_type"] == "default":
            return frequency
        if rope["rope_type"] == "linear":
            return frequency / rope["factor"]
        if rope["rope_type"] != "llama3":
            raise ValueError(f"RoPE of the type {rope['rope_type']} is not known here")
        turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
        if turns > rope["high_freq_factor"]:
            return frequency
        if turns < rope["low_freq_factor"]:
            return frequency / rope["factor"]
        share = (turns - rope["low_freq_factor"]) / (
            rope["high_freq_factor"] - rope["low_freq_factor"]
        )
        return (1 - share) * frequency / rope["factor"] + share * frequency

    def logits(self, ids):
        """Logits [len(ids), vocabulary]."""
        x = self.tensors["embed_tokens.weight"][torch.tensor(ids)]
        for layer in range(self.layers):
            name = f"layers.{layer}"
            x = x + self.attention(self.norm(x, f"{name}.input_layernorm"), f"{name}.self_attn")
            x = x + self.feed_forward(self.norm(x, f"{name}.post_attention_layernorm"), f"{name}.mlp")
        head = "lm_head" if "lm_head.weight" in self.tensors else "embed_tokens"
        return self.norm(x, "norm") @ self.tensors[f"{head}.weight"].T

    def norm(self, x, name):
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)
        return x * scale * self.tensors[f"{name}.weight"]

    def project(self, x, name):
        out = x @ self.tensors[f"{name}.weight"].T
        return out + self.tensors[f"{name}.bias"] if self.has_bias else out

    def rotate(self, x):
        """Element i of a head turns with element i + dim / 2."""
        angle = torch.arange(len(x), dtype=torch.float64)[:, None] * torch.tensor(
            self.frequencies, dtype=torch.float64
        )
        low, high = x.split(self.dim // 2, -1)
        return torch.cat(
            (low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()), -1
        )

    def attention(self, x, name):
        query, key, value = (self.project(x, f"{name}.{part}_proj") for part in "qkv")
        position = torch.arange(len(x))
        hidden = position[None, :] > position[:, None]
        if self.window:
            hidden = hidden | (position[None, :] <= position[:, None] - self.window)
        mixed = []
        for head in range(self.heads):
            kv_head = head // (self.heads // self.kv_heads)
            q = query[:, head * self.dim : (head + 1) * self.dim]
            k = key[:, kv_head * self.dim : (kv_head + 1) * self.dim]
            v = value[:, kv_head * self.dim : (kv_head + 1) * self.dim]
            if self.has_qk_norm:
                q, k = self.norm(q, f"{name}.q_norm"), self.norm(k, f"{name}.k_norm")
            scores = self.rotate(q) @ self.rotate(k).T / math.sqrt(self.dim)
            mixed.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v)
        return torch.cat(mixed, -1) @ self.tensors[f"{name}.o_proj.weight"].T

    def feed_forward(self, x, name):
        gate = x @ self.tensors[f"{name}.gate_proj.weight"].T
        up = x @ self.tensors[f"{name}.up_proj.weight"].T
        return (torch.nn.functional.silu(gate) * up) @ self.tensors[f"{name}.down_proj.weight"].T
