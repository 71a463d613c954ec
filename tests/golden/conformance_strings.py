"""The strings of tokenizers/strings.json: those of tokenizer_strings.py and what the other families'
tokenizers are sensitive to: combining marks, sentencepiece's spaces, names of every family's tokens.
"""

import random
import unicodedata

import tokenizer_strings
from tokenizer_strings import mixed

# Names of control and user-defined tokens of the vocabularies, and what only looks like one.
NAMES = (
    "<|begin_of_text|> <|end_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|> "
    "<|reserved_special_token_0|> <|endoftext|> <|im_start|> <|im_end|> <unk> <s> </s> [INST] "
    "[/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [REF] [/REF] [REFERENCE_DOC_1] [REFERENCE_DOC_19] "
    "<0x00> <0x41> <0x0A> <0xFF> <0xff> <0x4 <s <<s>> [INST [REFERENCE_DOC_ PAD [PAD151700] ⁇"
).split()

# What NFC composes, reorders, decomposes or leaves alone.
BASES = (
    "aAeEiIoOuUcnsyzqx ½ΑΩαωιυЕеИиגש한글가각ᄀ하ᅵᆨᆫかはハ゛कनढড়"
    "\u00c5\u00e9\u0226\u0344\u0374\u037e\u0387\u0958\u09cb\u0f43\u1e69\u1f00\u1fc1\u1fef\u1ffd"
    "\u212a\u212b\u2126\u2adc\uf900\ufa10\ufb1d\ufb4e\U00011099\U000110ab\U0001d15e\U0001d1bb"
    "\U0002f800\U0002fa1d\U00011938\U00011935"
)
MARKS = (
    "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0323\u0327\u0328\u0331"
    "\u0334\u0338\u0342\u0345\u05b0\u05b4\u05bc\u05c1\u064b\u0651\u0653\u0654\u093c\u09be\u09d7"
    "\u0f71\u0f74\u1161\u1175\u11a8\u11c2\u3099\u309a\U000110ba\U0001d165\U0001d16d\U00011930"
    "\u0898\u08d0\u1ac1\u07fd\u200d\ufe0f"
)


def combining(generator):
    for base in BASES:
        yield base
        yield unicodedata.normalize("NFD", base) + "x"
    for _ in range(420):
        word = ""
        for _ in range(generator.randint(1, 4)):
            word += generator.choice(BASES) + mixed(generator, MARKS, 0, 4)
        yield word
    yield "a" + "\u0301\u0323" * 200
    yield "\u0301" * 64 + "a"


def sentencepiece_spaces(generator):
    parts = [" ", "  ", "\u2581", "\n", "\t", "a", "the", "\u00a0", "\u3000", "é", "漢", "1"]
    for _ in range(160):
        yield mixed(generator, parts, 1, 8)
    for count in (1, 2, 3, 15, 16, 17, 40):
        yield "\u2581" * count
        yield " " * count + "\u2581" + " " * count
        yield "x" + " " * count


def names(generator):
    for name in NAMES:
        yield from (name, f"a {name} b", f"{name}{name}", f" {name}\n", f"{name} x", f"{name[:-1]}é")
    parts = [*NAMES, " ", "  ", "\n", "a", "é", "user", "'s", "12", "\u0301"]
    for _ in range(220):
        yield mixed(generator, parts, 2, 8)


def categories(generator):
    """Two of every general category at a time, a letter, a digit or a space between."""
    members = {}
    for code_point in range(0x110000):
        character = chr(code_point)
        category = unicodedata.category(character)
        settled = not tokenizer_strings.in_ranges(code_point, tokenizer_strings.UNSETTLED)
        if category != "Cs" and settled:
            members.setdefault(category, []).append(character)
    for first in sorted(members):
        for second in sorted(members):
            a, b = generator.choice(members[first]), generator.choice(members[second])
            between = generator.choice(["", " ", "a", "1", "'s", "\n"])
            yield f"{a}{between}{b}{b} {a}"


def digits_and_lines(generator):
    """Runs of digits in threes and off, line ends behind signs, apostrophes in both cases."""
    for count in range(1, 14):
        yield "9" * count
        yield "x" + "7" * count + "y"
        yield "\u0661" * count + "." + "3" * count
    parts = ["\r", "\n", "\r\n", " ", "\t", "!", "//", "...", "'S", "'ſ", "'LL", "'Ve", "a", "12", "_"]
    for _ in range(220):
        yield mixed(generator, parts, 2, 9)


def all_strings(pieces):
    """Every string once, in a fixed order. pieces: words of the vocabularies."""
    generator = random.Random(20261124)
    groups = (
        tokenizer_strings.all_strings(pieces),
        tokenizer_strings.newer_unicode(),
        combining(generator),
        sentencepiece_spaces(generator),
        names(generator),
        categories(generator),
        digits_and_lines(generator),
    )
    return list(dict.fromkeys(text for group in groups for text in group))
