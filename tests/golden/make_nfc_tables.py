#!/usr/bin/env python3
"""Writes core/tokenizer/nfc_tables.cc from Python's unicodedata (Unicode 14 in Python 3.11).

The normalizer of `tokenizers` 0.23 knows an older Unicode: what it does not know is left out, so
that texts come out as they do where the vocabularies were made.
"""

import argparse
import unicodedata

from tokenizers import normalizers

HANGUL = range(0xAC00, 0xD7A4)


def known(*texts):
    """Whether `tokenizers` brings these texts into the form that unicodedata gives."""
    nfc = normalizers.NFC()
    return all(nfc.normalize_str(text) == unicodedata.normalize("NFC", text) for text in texts)


def decompositions():
    """(composes, code point, first, second or 0) of every canonical decomposition but Hangul's."""
    for code_point in range(0x110000):
        if 0xD800 <= code_point < 0xE000 or code_point in HANGUL:
            continue
        mapping = unicodedata.decomposition(chr(code_point))
        if not mapping or mapping.startswith("<"):
            continue
        if not known(unicodedata.normalize("NFD", chr(code_point))):
            continue
        parts = [int(part, 16) for part in mapping.split()]
        first, second = parts[0], parts[1] if len(parts) == 2 else 0
        composes = len(parts) == 2 and (
            unicodedata.normalize("NFC", chr(first) + chr(second)) == chr(code_point)
        )
        yield composes, code_point, first, second


def classes():
    """(first, last, combining class) of every run of at most eight."""
    runs = []
    for code_point in range(0x110000):
        combining = unicodedata.combining(chr(code_point))
        # Between marks of other classes its own shows.
        character = chr(code_point)
        if not combining or not known(f"a{character}\u05b0", f"a\u0345{character}\u0334"):
            continue
        if runs and runs[-1][1] == code_point - 1 and runs[-1][2] == combining:
            if runs[-1][1] - runs[-1][0] < 7:
                runs[-1][1] = code_point
                continue
        runs.append([code_point, code_point, combining])
    return runs


def table(numbers, width, per_line):
    rows = [numbers[i : i + per_line] for i in range(0, len(numbers), per_line)]
    return ",\n".join("    " + ", ".join(f"0x{n:0{width}x}" for n in row) for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="the file to write, nfc_tables.cc")
    arguments = parser.parse_args()
    mappings = [
        code_point << 43 | first << 22 | second << 1 | composes
        for composes, code_point, first, second in decompositions()
    ]
    runs = [first << 11 | (last - first) << 8 | combining for first, last, combining in classes()]
    text = f"""// Made by tests/golden/make_nfc_tables.py from Unicode {unicodedata.unidata_version}; not edited by hand.
#include "core/tokenizer/nfc_tables.h"

namespace penstock {{

// clang-format off
const std::array<uint64_t, kNumDecompositions> kDecompositions = {{
{table(mappings, 16, 4)}}};

const std::array<uint32_t, kNumCombining> kCombining = {{
{table(runs, 8, 8)}}};
// clang-format on

}}  // namespace penstock
"""
    with open(arguments.output, "w", encoding="ascii") as stream:
        stream.write(text)
    print(f"kNumDecompositions = {len(mappings)}, kNumCombining = {len(runs)}")


if __name__ == "__main__":
    main()
