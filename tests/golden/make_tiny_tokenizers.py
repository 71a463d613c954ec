#!/usr/bin/env python3
"""Writes tokenizers/tiny/: small tokenizer files as Hugging Face and sentencepiece write them, each
trained here on a few texts, with the ids that they give for some hundred strings.
"""

import argparse
import io
import json
import os
import random

import conformance_strings
import sentencepiece
import tokenizer_strings
from make_tokenizers import (
    BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, encode_all, header, merges_of, message,
    pre_tokenizer,
)  # fmt: skip
from reference_model import progress, write_lines
from tokenizers import (
    AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers,
)  # fmt: skip

SPACE = "\u2581"
EVERY = 23  # of the conformance strings
CORPUS = [*tokenizer_strings.PROSE, *tokenizer_strings.CODE] * 3


def byte_level(kind, **settings):
    """A byte-level BPE, trained with the steps of its family."""
    tokenizer = Tokenizer(models.BPE())
    if kind == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizer(kind)
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    if settings:
        state = json.loads(tokenizer.model.__getstate__())
        merges = [tuple(merge) for merge in state["merges"]]
        tokenizer.model = models.BPE(state["vocab"], merges, **settings)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def add_names(tokenizer, special, plain=()):
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in plain])


def gpt2():
    tokenizer = byte_level("gpt-2")
    add_names(tokenizer, ["<|endoftext|>"])
    return tokenizer


def smollm():
    tokenizer = byte_level("smollm")
    add_names(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def llama3():
    tokenizer = byte_level("llama-bpe", ignore_merges=True)
    add_names(tokenizer, ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>"])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", bos)],
    )
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template]
    )
    return tokenizer


def qwen2():
    tokenizer = byte_level("qwen2")
    add_names(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<tool_call>", "[REF]"])
    return tokenizer


def tekken():
    tokenizer = byte_level("tekken", ignore_merges=True)
    add_names(tokenizer, ["[INST]", "[/INST]"])
    return tokenizer


def spaced(normalizer, steps, byte_fallback=True):
    """BPE with sentencepiece's spaces: special tokens, bytes, then characters and words."""
    model = trained_sentencepiece(byte_fallback=byte_fallback)
    tokens = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    scores = [model.get_score(i) for i in range(model.get_piece_size())]
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(ids, merges_of(tokens, scores), unk_token="<unk>", fuse_unk=True,
                   byte_fallback=byte_fallback)
    )  # fmt: skip
    if normalizer:
        tokenizer.normalizer = normalizer
    if steps:
        tokenizer.pre_tokenizer = steps
    add_names(tokenizer, ["<unk>", "<s>", "</s>"], ["[REF]"])
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.post_processor = template
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def llama2():
    steps = [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    return spaced(normalizers.Sequence(steps), None)


def llama2_unknown():
    steps = [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    return spaced(normalizers.Sequence(steps), None, byte_fallback=False)


def metaspace(scheme):
    return spaced(None, pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False))


JSON = {
    "gpt2": gpt2,
    "smollm": smollm,
    "llama3": llama3,
    "qwen2": qwen2,
    "tekken": tekken,
    "llama2": llama2,
    "llama2_unknown": llama2_unknown,
    "metaspace_first": lambda: metaspace("first"),
    "metaspace_always": lambda: metaspace("always"),
    "metaspace_never": lambda: metaspace("never"),
}


def trained_sentencepiece(**settings):
    model = io.BytesIO()
    settings = {
        "vocab_size": 900, "model_type": "bpe", "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "byte_fallback": True, "minloglevel": 2,
        "num_threads": 1, "character_coverage": 0.99, "input_sentence_size": 0, **settings,
    }  # fmt: skip
    few = [text for text in CORPUS if max(map(ord, text)) < 0x500]  # few characters
    lines = [line for text in few for line in text.split("\n") if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **settings
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def kind_of(model, i):
    if model.is_unknown(i):
        return UNKNOWN
    if model.is_control(i):
        return CONTROL
    if model.is_byte(i):
        return BYTE
    return UNUSED if model.is_unused(i) else NORMAL


def with_unused():
    """Pieces that may not be used, some of which better ones are made of."""
    model = trained_sentencepiece()
    generator = random.Random(5)
    proto = b""
    for i in range(model.get_piece_size()):
        kind = kind_of(model, i)
        piece = model.id_to_piece(i)
        if kind == NORMAL and len(piece) > 1 and generator.random() < 0.3:
            kind = UNUSED
        if piece in ("ing", "the"):
            kind = USER_DEFINED
        proto += message((1, message((1, piece.encode()), (2, model.get_score(i)), (3, kind))))
    proto += message((2, message((3, 2), (35, 1))), (3, message((1, b"identity"), (4, 0))))
    return sentencepiece.SentencePieceProcessor(model_proto=proto)


SENTENCEPIECE = {
    "spm_bytes": lambda: trained_sentencepiece(split_digits=True),
    "spm_unknown": lambda: trained_sentencepiece(
        byte_fallback=False, remove_extra_whitespaces=True,
        user_defined_symbols=["<tool>", SPACE * 2, "[REF]"], control_symbols=["<ctl>"],
    ),
    "spm_no_prefix": lambda: trained_sentencepiece(
        add_dummy_prefix=False, remove_extra_whitespaces=True, user_defined_symbols=["[INST]"]
    ),
    "spm_unused": with_unused,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="the folder to write into, tokenizers/tiny")
    output = parser.parse_args().output
    texts = conformance_strings.all_strings(["hello", "world", "ing", "the"] * 50)[::EVERY]
    texts = [text for text in texts if len(text) <= 400]
    head = header("trained by make_tiny_tokenizers.py")
    head["command"] = "python3 make_tiny_tokenizers.py tokenizers/tiny"
    for name, make in JSON.items():
        tokenizer = make()
        folder = f"{output}/{name}"
        os.makedirs(folder, exist_ok=True)
        state = json.loads(tokenizer.to_str())
        if name in ("gpt2", "llama2"):  # the older spelling of merges
            state["model"]["merges"] = [" ".join(pair) for pair in state["model"]["merges"]]
        with open(f"{folder}/tokenizer.json", "w", encoding="utf-8") as stream:
            json.dump(state, stream, ensure_ascii=False, separators=(",", ":"))
        ids = [each.ids for each in tokenizer.encode_batch(texts)]
        plain = encode_all(tokenizer, texts)
        assert all(a[-len(b) :] == b or not b for a, b in zip(ids, plain))
        cases = [{"text": text, "ids": each} for text, each in zip(texts, ids)]
        write_lines(f"{folder}/ids.json", head, cases)
    for name, make in SENTENCEPIECE.items():
        model = make()
        folder = f"{output}/{name}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/tokenizer.model", "wb") as stream:
            stream.write(model.serialized_model_proto())
        cases = [
            {"text": text, "ids": ids, "decoded": model.decode(ids)}
            for text, ids in zip(texts, model.encode(texts))
        ]
        write_lines(f"{folder}/ids.json", head, cases)
    progress(f"{len(texts)} strings, {len(JSON) + len(SENTENCEPIECE)} tokenizers")


if __name__ == "__main__":
    main()
