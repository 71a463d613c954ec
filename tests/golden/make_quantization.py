#!/usr/bin/env python3
"""Makes quantization.json: random blocks of every quantized GGUF type and their float32 values.

usage: make_quantization.py OUTPUT

The values come from the Python package gguf. Scales are finite; every other byte is random, so
that all bits of a block take part. Blocks are hex; values are the hex of their float32 bits.
"""

import datetime
import importlib.metadata
import json
import sys

import gguf
import numpy

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
BLOCKS = 6
# Where the f16 scales of a block lie, in bytes from its start.
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
          "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    generator = numpy.random.default_rng(20261122)
    cases = {}
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        data = generator.integers(0, 256, (BLOCKS, block_bytes), dtype=numpy.uint8)
        for at in SCALES[name]:
            scales = generator.normal(0, 0.05, BLOCKS).astype(numpy.float16)
            data[:, at:at + 2] = scales.view(numpy.uint8).reshape(BLOCKS, 2)
        values = gguf.quants.dequantize(data, kind).astype("<f4").reshape(-1)
        cases[name.lower()] = {"blocks": data.tobytes().hex(), "values": values.tobytes().hex()}
    header = {
        "versions": {name: importlib.metadata.version(name) for name in ("gguf", "numpy")},
        "date": datetime.date.today().isoformat(),
        "command": "python3 make_quantization.py quantization.json",
    }
    with open(sys.argv[1], "w", encoding="ascii") as out:
        out.write('{"header":' + json.dumps(header) + ',\n"types":{\n')
        out.write(",\n".join(f'"{name}":{json.dumps(case)}' for name, case in cases.items()))
        out.write("\n}}\n")


main()
