#!/usr/bin/env python3
"""Writes smollm2_tokenizer.json: ids that a Hugging Face BPE gives for a few thousand strings.

The tokenizer is built from the packaged GGUF's own vocabulary and merges. Special parsing is turned
off by a second tokenizer that has no added tokens.
"""

import argparse
import sys

import reference_model
import tokenizer_strings
from reference_model import GoldenError, progress

PACKAGES = ("tokenizers", "gguf")
AT_LEAST = 2200
DECODE_EVERY = 4


def gpt2_alphabet():
    """{printable character: byte}, the way a byte-level BPE spells bytes in its vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): byte for byte in printable}
    return spelled | {chr(256 + index): byte for index, byte in enumerate(others)}


def token_bytes(reader):
    """The bytes that each id stands for, control tokens included (by name)."""
    alphabet = gpt2_alphabet()
    tokens = reference_model.field(reader, "tokenizer.ggml.tokens")
    return [bytes(alphabet[character] for character in token) for token in tokens]


def as_text(data):
    """The bytes as text, or None where they are not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def build_cases(reader):
    """All cases; checks that decoding by hand and Hugging Face's decoder agree."""
    special = reference_model.hf_tokenizer(reader, special=True)
    plain = reference_model.hf_tokenizer(reader, special=False)
    pieces = token_bytes(reader)
    ordinary = pieces[len(tokenizer_strings.CONTROL) :]
    texts = [text for text in map(as_text, ordinary) if text is not None]
    settled = tokenizer_strings.all_strings(texts)
    newer = tokenizer_strings.newer_unicode()
    progress(f"{len(settled)} strings, and {len(newer)} of newer Unicode")
    if len(settled) < AT_LEAST:
        raise GoldenError(f"only {len(settled)} strings: the generators give too few")
    cases = []
    for index, text in enumerate(settled + newer):
        case = {"text": text, "special": special.encode(text).ids}
        plain_ids = plain.encode(text).ids
        if plain_ids != case["special"]:
            case["plain"] = plain_ids
        if index % DECODE_EVERY == 0:
            decoded = as_text(b"".join(pieces[i] for i in plain_ids))
            if decoded is not None:
                if plain.decode(plain_ids, skip_special_tokens=True) != decoded:
                    raise GoldenError(f"Hugging Face decodes {text!r} to something else")
                case["decoded"] = decoded
        if index >= len(settled):
            case["newer_unicode"] = True
        cases.append(case)
        if (index + 1) % 500 == 0:
            progress(f"{index + 1} strings done")
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the packaged GGUF file")
    parser.add_argument("output", help="the file to write, smollm2_tokenizer.json")
    arguments = parser.parse_args()
    reference_model.check_writable(arguments.output)
    reader = reference_model.open_gguf(arguments.model)
    cases = build_cases(reader)
    header = reference_model.header(
        arguments.model, PACKAGES, "python3 make_tokenizer.py MODEL smollm2_tokenizer.json"
    )
    header["cases"] = len(cases)
    header["cases_with_plain"] = sum("plain" in case for case in cases)
    header["cases_with_decoded"] = sum("decoded" in case for case in cases)
    header["cases_of_newer_unicode"] = sum("newer_unicode" in case for case in cases)
    header["plain"] = "ids of a second tokenizer, without added tokens; absent if the same"
    reference_model.write_lines(arguments.output, header, cases)


if __name__ == "__main__":
    try:
        main()
    except GoldenError as error:
        sys.exit(f"make_tokenizer: {error}")
