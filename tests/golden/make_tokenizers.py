#!/usr/bin/env python3
"""Writes tokenizers/: some thousand strings and their ids by the vocabularies of other families.

The ids come from PyPI `tokenizers` and `sentencepiece`, on the vocabularies that
scripts/fetch-vocabularies fetches. Pieces of a long answer are folded into a digest.
"""

import argparse
import importlib.metadata
import json
import os
import re
import struct
import sys

import conformance_strings
import gguf
import reference_model
import sentencepiece
from reference_model import GoldenError, progress
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

LONGEST = 64  # ids in full; more are count, first 16 and digest

REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    + REST.replace(r"[\r\n]*|", r"[\r\n/]*|", 1)
)
SPLITS = {
    "llama-bpe": WORDS + r"|\p{N}{1,3}" + REST,
    "qwen2": WORDS + r"|\p{N}" + REST,
    "tekken": TEKKEN,
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTE_LEVEL = ("gpt-2", "llama-bpe", "qwen2")
MISTRAL = {
    "mistral-v1": "tokenizer.model.v1",
    "mistral-v3": "mistral_instruct_tokenizer_240323.model.v3",
    "mistral-v7": "mistral_instruct_tokenizer_241114.model.v7",
}


def pre_tokenizer(kind):
    """The steps that the family's tokenizer.json has."""
    if kind == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split(Regex(SPLITS[kind]), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, byte_level])


class Vocabulary:
    """Tokens, types, merges and scores of a GGUF file."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.tokens = reference_model.field(reader, "tokenizer.ggml.tokens")
        self.types = reference_model.field(reader, "tokenizer.ggml.token_type")
        self.reader = reader

    def ids(self, types):
        return {token: i for i, token in enumerate(self.tokens) if self.types[i] in types}

    def control(self):
        return [token for i, token in enumerate(self.tokens) if self.types[i] in (CONTROL, UNKNOWN)]


def byte_level_tokenizer(kind, vocabulary, special):
    merges = reference_model.field(vocabulary.reader, "tokenizer.ggml.merges")
    merges = [tuple(merge.split(" ")) for merge in merges]
    known = (NORMAL, CONTROL) if special else (NORMAL,)
    ids = vocabulary.ids(known)
    tokenizer = Tokenizer(models.BPE(ids, merges, ignore_merges=kind == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizer(kind)
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    if special:
        names = [AddedToken(name, special=True, normalized=False) for name in vocabulary.control()]
        tokenizer.add_special_tokens(names)
    return tokenizer


def merges_of(tokens, scores):
    """Every way to make a token of two, best score first, as converters of sentencepiece do it."""
    ids = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, score in zip(tokens, scores):
        for cut in range(1, len(token)):
            if token[:cut] in ids and token[cut:] in ids:
                merges.append((-score, ids[token[:cut]], ids[token[cut:]]))
    return [(tokens[left], tokens[right]) for _, left, right in sorted(merges)]


def spaced_tokenizer(vocabulary, scores):
    """sentencepiece's BPE the way the first tokenizer.json of Llama 2 has it."""
    merges = merges_of(vocabulary.tokens, scores)
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(
        models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in vocabulary.control()]
    )
    return tokenizer


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def message(*fields):
    """protobuf's wire format: (number, int, float or bytes) each."""
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        elif isinstance(value, float):
            out += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            out += varint(number << 3) + varint(value)
    return out


def sentencepiece_of(vocabulary, scores):
    """Google's own encoder on the scores of a GGUF file."""
    model = b""
    for token, score, kind in zip(vocabulary.tokens, scores, vocabulary.types):
        piece = message((1, token.encode()), (2, float(score)), (3, kind))
        model += message((1, piece))
    model += message((2, message((3, 2), (35, 1))), (3, message((1, b"identity"), (4, 0))))
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def encode_around(processor, names, text):
    """Google's encoder on what lies between the names of control tokens, which become those tokens.

    The space that it puts before a text stands for the one with which a text behind a name begins.
    """
    ids, first = [], True
    found = [name for name in names if name in text]  # the longest first
    for part in re.split("(" + "|".join(map(re.escape, found)) + ")", text) if found else [text]:
        if part in names:
            ids.append(names[part])
            first = False
        elif first or part[:1] not in (" ", "\u2581"):
            ids += processor.encode(part)
        elif len(part) == 1:
            ids.append(processor.piece_to_id("\u2581"))
        else:
            ids += processor.encode(part[1:])
    return ids


def control_names(processor):
    """{name: id}, the longest first."""
    ids = range(processor.get_piece_size())
    names = [i for i in ids if processor.is_control(i) or processor.is_unknown(i)]
    names.sort(key=lambda i: -len(processor.id_to_piece(i)))
    return {processor.id_to_piece(i): i for i in names}


def digest(ids):
    """FNV-1a of the ids as 32-bit numbers."""
    value = 0xCBF29CE484222325
    for byte in b"".join(struct.pack("<I", i) for i in ids):
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{value:016x}"


def folded(ids):
    if len(ids) <= LONGEST:
        return ids
    return {"count": len(ids), "first": ids[:16], "digest": digest(ids)}


def write(path, header, plain, special, prepended=None):
    """One case a line: the plain ids, and where they differ those with special tokens parsed, and
    where these differ those of Hugging Face's Prepend."""
    cases = []
    for index, ids in enumerate(plain):
        case = {"plain": folded(ids)}
        if special is not None and special[index] != ids:
            case["special"] = folded(special[index])
        if prepended is not None and prepended[index] != special[index]:
            case["prepended"] = folded(prepended[index])
        cases.append(case)
    header["cases_with_special"] = sum("special" in case for case in cases)
    header["special"] = special is not None
    reference_model.write_lines(path, header, cases)


def header(source):
    packages = ("tokenizers", "sentencepiece", "gguf")
    return {
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "source": source,
        "command": "python3 make_tokenizers.py VOCABULARIES tokenizers",
    }


def encode_all(tokenizer, texts):
    return [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]


def words(vocabulary, spaced):
    """The tokens of a vocabulary that are ASCII words, as text."""
    space = "\u2581" if spaced else "\u0120"
    texts = (token.replace(space, " ") for token in vocabulary.tokens)
    return [text for text in texts if text.isascii() and text.strip().isalpha()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vocabularies", help="the folder that scripts/fetch-vocabularies prints")
    parser.add_argument("output", help="the folder to write into, tokenizers")
    arguments = parser.parse_args()
    source, output = arguments.vocabularies, arguments.output
    loaded = {}
    for name in (*BYTE_LEVEL, "llama-spm"):
        path = f"{source}/ggml-vocab-{name}.gguf"
        if not os.path.isfile(path):
            raise GoldenError(f"no file {path}: fetch it with scripts/fetch-vocabularies")
        loaded[name] = Vocabulary(path)
    texts = conformance_strings.all_strings(
        words(loaded["gpt-2"], False)[::7] + words(loaded["llama-spm"], True)[::5]
    )
    progress(f"{len(texts)} strings")
    os.makedirs(output, exist_ok=True)
    with open(f"{output}/strings.json", "w", encoding="ascii") as stream:
        stream.write("[\n" + ",\n".join(map(json.dumps, texts)) + "\n]\n")

    for name in BYTE_LEVEL:
        plain = encode_all(byte_level_tokenizer(name, loaded[name], special=False), texts)
        special = encode_all(byte_level_tokenizer(name, loaded[name], special=True), texts)
        write(f"{output}/{name}.json", header(f"ggml-vocab-{name}.gguf"), plain, special)

    scores = reference_model.field(loaded["llama-spm"].reader, "tokenizer.ggml.scores")
    processor = sentencepiece_of(loaded["llama-spm"], scores)
    plain = processor.encode(texts)
    names = control_names(processor)
    special = [encode_around(processor, names, text) for text in texts]
    prepended = encode_all(spaced_tokenizer(loaded["llama-spm"], scores), texts)
    head = header("ggml-vocab-llama-spm.gguf")
    write(f"{output}/llama-spm.json", head, plain, special, prepended)

    for name, file in MISTRAL.items():
        processor = sentencepiece.SentencePieceProcessor(f"{source}/{file}")
        names = control_names(processor)
        special = [encode_around(processor, names, text) for text in texts]
        write(f"{output}/{name}.json", header(file), processor.encode(texts), special)

    # No vocabulary of tekken is fetched: where it cuts words, in bytes.
    split = pre_tokenizers.Split(Regex(SPLITS["tekken"]), "isolated")
    lengths = [[len(w.encode()) for w, _ in split.pre_tokenize_str(text)] for text in texts]
    write(f"{output}/tekken_words.json", header("the published regular expression"), lengths, None)


if __name__ == "__main__":
    try:
        main()
    except GoldenError as error:
        sys.exit(f"make_tokenizers: {error}")
