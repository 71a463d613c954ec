"""The prompts of smollm2_generation.json.

A prompt is a Prompt; its text is tokenized with or without special parsing, or its ids are given
directly and text is None.
"""

import random
from dataclasses import dataclass

END_OF_TEXT, IM_START, IM_END = 0, 1, 2
SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n"
)


@dataclass
class Prompt:
    name: str
    text: str | None = None
    ids: list[int] | None = None
    special: bool = False
    max_tokens: int = 64
    first_logits: bool = False
    tokens: int | None = None  # long prompts: how many the text must come to


def chat(*turns):
    """The model's chat template for (role, text) turns, ready for the assistant's answer."""
    body = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return body + "<|im_start|>assistant\n"


def asked(question):
    """One user's question behind the template's own system turn."""
    return SYSTEM + chat(("user", question))


LETTER = (
    "The ferry had left an hour before the storm, and nobody on the island thought to ask why the "
    "captain had been in such a hurry. Marta swept the last of the sand from the steps of the "
    "bakery, pulled the shutters closed, and counted the loaves that were left: nine brown, four "
    "white, and one that had come out of the oven shaped like a boot. She wrapped the boot in "
    "paper for old Tomas, who laughed at such things, and put the rest in a basket by the door.\n\n"
    "By six the rain was coming sideways. The harbour lights went out one after another, first the "
    "green one at the end of the mole, then the two by the fish market. Tomas arrived with water "
    "running from his hat and a letter under his coat. It had no stamp. On the front, in blue ink, "
    "somebody had written her name and, below it, a single line: open this before the lights come "
    "back on. Marta held it near the lamp. The paper was thick and smelled of tar.\n\n"
    "\"Who gave you this?\" she asked.\n\n"
    "\"The captain,\" said Tomas, \"when he cast off. He told me to wait until dark, and it has "
    "been dark since four. I would have come sooner, but the road is under water at the chapel, "
    "and I had to carry the dog.\" The dog, a small grey creature with one white ear, shook itself "
    "over the flour sacks and lay down beside the stove. Marta broke the seal with a bread knife, "
    "unfolded the single sheet,"
)


def service_log():
    """A seeded log of a made-up service, then a question about it."""
    generator = random.Random(300)
    lines = []
    for index in range(60):
        second = index * 7 % 60
        words = generator.choice(
            (
                f"GET /v1/items/{generator.randrange(1, 999)} 200 {generator.randrange(2, 90)}ms",
                f"POST /v1/orders 201 {generator.randrange(9, 300)}ms user=u{index:02d}",
                f"cache miss key=item:{generator.randrange(1, 999)} shard={index % 4}",
                "retrying connection to db-2 after timeout (attempt 2 of 5)",
                f"worker {index % 3} idle, queue length {generator.randrange(0, 12)}",
            )
        )
        level = "WARN" if "retry" in words else "INFO"
        lines.append(f"12:{index:02d}:{second:02d} {level} {words}\n")
    return lines


def diary():
    """Seeded entries of a ship's diary: varied, long, and with the same few names throughout."""
    generator = random.Random(1500)
    names = ("Anna", "Bertrand", "Chiyo", "Dmitri", "Elif", "Femi", "Greta", "Hassan")
    tasks = ("mended the nets", "painted the cabin door", "cooked lentils with garlic",
             "watched the whales pass", "counted the water barrels", "wrote to the owners",
             "learned a song in Portuguese", "cut new wedges for the hatch")
    winds = ("a light breeze from the west", "fog until noon", "heavy swell and no wind",
             "clear skies and a north wind", "thunder far away in the south")
    remarks = ("Nobody was late for supper.", "The cat slept through all of it.",
               "We have oil for nine more days.", "The clock in the galley is slow again.",
               "I think the chart is wrong about the reef.")
    lines = []
    for day in range(1, 80):
        first, second = generator.sample(names, 2)
        lines.append(
            f"Day {day}. {generator.choice(winds).capitalize()}. {first} "
            f"{generator.choice(tasks)} while {second} {generator.choice(tasks)}. "
            f"{generator.choice(remarks)}\n"
        )
    return lines


def source_file():
    """A made-up C source file of many small functions."""
    lines = ["/* Small integer helpers. */\n", "#include <stdint.h>\n", "\n"]
    for index, name in enumerate(("add", "sub", "mul", "and", "or", "xor", "min", "max") * 4):
        bits = (8, 16, 32, 64)[index // 8]
        operation = {"add": "a + b", "sub": "a - b", "mul": "a * b", "and": "a & b",
                     "or": "a | b", "xor": "a ^ b", "min": "a < b ? a : b",
                     "max": "a > b ? a : b"}[name]
        kind = f"uint{bits}_t"
        lines.append(f"static {kind} {name}_u{bits}({kind} a, {kind} b) {{\n")
        lines.append(f"\treturn ({kind})({operation});\n}}\n\n")
    return lines


def ordinary_ids(seed, count):
    """Seeded ids from all over the vocabulary, no control tokens."""
    generator = random.Random(seed)
    return [generator.randrange(17, 49152) for _ in range(count)]


SHORT = [
    Prompt("english_capital", "The capital of France is", first_logits=True),
    Prompt("english_story", "Once upon a time, in a village at the foot of a mountain,",
           max_tokens=128),
    Prompt("english_recipe", "To make a simple tomato soup, you need the following:"),
    Prompt("english_cut_word", "The photosynthe"),
    Prompt("question", "Why is the sky blue?"),
    Prompt("question_list", "Q: What are the three states of matter?\nA:"),
    Prompt("code_python", "def fibonacci(n):\n    \"\"\"Return the n-th number.\"\"\"\n",
           max_tokens=128, first_logits=True),
    Prompt("code_cpp", "#include <vector>\n\nint Sum(const std::vector<int>& values) {\n"),
    Prompt("code_sql", "SELECT name, COUNT(*) FROM orders\nWHERE"),
    Prompt("code_shell", "#!/bin/bash\nset -euo pipefail\n\nfor file in *.txt; do\n"),
    Prompt("json_object", "{\"name\": \"Alice\", \"age\": 31, \"languages\": [\"en\", "),
    Prompt("markdown_table", "| Planet | Moons |\n|---|---|\n| Earth | 1 |\n| Mars |"),
    Prompt("html", "<!DOCTYPE html>\n<html>\n<head>\n  <title>"),
    Prompt("maths_sum", "12 + 30 = 42\n17 + 25 = 42\n19 + 24 ="),
    Prompt("maths_proof", "Theorem. The square root of 2 is irrational.\nProof."),
    Prompt("digits_pi", "3.14159265358979323846264338327950288419716939937510"),
    Prompt("digits_count", "1 2 3 4 5 6 7 8 9 10 11 12 13"),
    Prompt("chinese", "中国的首都是北京。日本的首都是", first_logits=True),
    Prompt("japanese", "むかしむかし、あるところに"),
    Prompt("arabic", "السلام عليكم ورحمة الله"),
    Prompt("russian", "Москва — столица"),
    Prompt("german_french", "Guten Morgen! Comment ça va? Je m'appelle"),
    Prompt("emoji", "I love 🍕 and 👩‍👩‍👧‍👦 and"),
    Prompt("combining_marks", "Cafe\u0301 cre\u0300me, Z\u0334\u0321a\u0489lgo:"),
    Prompt("one_word", "Hello"),
    Prompt("one_token_space", " the"),
    Prompt("whitespace_spaces", "    "),
    Prompt("whitespace_mixed", " \n\t\n  "),
    Prompt("leading_spaces", "   three spaces before"),
    Prompt("trailing_space", "The answer is "),
    Prompt("newlines", "First line\n\n\nSecond line\r\nThird line\n"),
    Prompt("tabs", "name\tage\tcity\nBob\t42\tOslo\nEve\t"),
]

CHAT = [
    Prompt("chat_capital", asked("What is the capital of Italy? Answer in one word."),
           special=True),
    Prompt("chat_no_system", chat(("user", "Say hello.")), special=True, first_logits=True),
    Prompt("chat_yes_no", chat(("system", "Answer with yes or no only."),
                               ("user", "Is water wet?")), special=True),
    Prompt("chat_turns", chat(("system", "You are a pirate."), ("user", "Who are you?"),
                              ("assistant", "Arr, I be a pirate!"), ("user", "What is 2+2?")),
           special=True, max_tokens=128),
    Prompt("chat_unicode", asked("Translate to English: „Guten Tag, schöne Grüße!“ 🙂"),
           special=True),
    Prompt("chat_names_as_text", asked("Say hello."), special=False),
]

IDS = [
    Prompt("ids_end_of_text", ids=[END_OF_TEXT], first_logits=True),
    Prompt("ids_im_start", ids=[IM_START]),
    Prompt("ids_last_of_vocabulary", ids=[49151]),
    Prompt("ids_control_inside", ids=[504, 3, 16, END_OF_TEXT, 504, IM_END, 198, 6]),
    Prompt("ids_random_63", ids=ordinary_ids(63, 63)),
    Prompt("ids_random_64", ids=ordinary_ids(64, 64)),
    Prompt("ids_random_65", ids=ordinary_ids(65, 65)),
]

LONG = [
    Prompt("long_300_story", LETTER, tokens=300, max_tokens=128),
    Prompt("long_700_source", "".join(source_file()), tokens=700),
    Prompt("long_1100_log", "".join(service_log()), tokens=1100),
    Prompt("long_1500_diary", "".join(diary()), tokens=1500, max_tokens=128, first_logits=True),
]


def all_prompts():
    """Every prompt, in the order of the golden file."""
    return SHORT + CHAT + IDS + LONG
