"""The strings of smollm2_tokenizer.json: hand-picked ones and seeded ones, no surrogates.

Classes of code points follow Unicode 14 (Python 3.11's unicodedata); strings with code points that
became letters or digits later come from newer_unicode() only, so that they can be told apart.
"""

import random
import unicodedata

import generation_prompts

CONTROL = (
    "<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename> <gh_stars> "
    "<issue_start> <issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> "
    "<jupyter_output> <jupyter_script> <empty_output>"
).split()

SPACES = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"
)
# What some regular expression engine or other takes for a space, and Hugging Face's does not.
NEARLY_SPACES = "\x1c\x1d\x1e\x1f\u180e\u200b\u200c\u200d\u2060\ufeff"

# Letters, digits and numbers that Unicode 15, 16 and 17 added, as (first, last).
NEWER_LETTERS = (
    (0x1C89, 0x1C8A), (0xA7CB, 0xA7CD), (0xA7DA, 0xA7DC), (0x105C0, 0x105F3), (0x10D4A, 0x10D65),
    (0x10D6F, 0x10D85), (0x10EC2, 0x10EC4), (0x1123F, 0x11240), (0x11380, 0x11389),
    (0x1138B, 0x1138B), (0x1138E, 0x1138E), (0x11390, 0x113B5), (0x113B7, 0x113B7),
    (0x113D1, 0x113D1), (0x113D3, 0x113D3), (0x11BC0, 0x11BE0), (0x11F02, 0x11F02),
    (0x11F04, 0x11F10), (0x11F12, 0x11F33), (0x1342F, 0x1342F), (0x13441, 0x13446),
    (0x13460, 0x143FA), (0x16100, 0x1611D), (0x16D40, 0x16D6C), (0x18CFF, 0x18CFF),
    (0x1B132, 0x1B132), (0x1B155, 0x1B155), (0x1DF25, 0x1DF2A), (0x1E030, 0x1E06D),
    (0x1E4D0, 0x1E4EB), (0x1E5D0, 0x1E5ED), (0x1E5F0, 0x1E5F0), (0x2B739, 0x2B739),
    (0x2EBF0, 0x2EE5D), (0x31350, 0x323AF),
)  # fmt: skip
NEWER_DIGITS = (
    (0x10D40, 0x10D49), (0x116D0, 0x116E3), (0x11BF0, 0x11BF9), (0x11DE0, 0x11DE9),
    (0x11F50, 0x11F59), (0x16130, 0x16139), (0x16D70, 0x16D79), (0x16FF4, 0x16FF6),
    (0x1CCF0, 0x1CCF9), (0x1D2C0, 0x1D2D3), (0x1E4F0, 0x1E4F9), (0x1E5F1, 0x1E5FA),
)  # fmt: skip
# Room that letters of later versions still go to; nothing is drawn from it.
UNSETTLED = NEWER_LETTERS + NEWER_DIGITS + ((0x323B0, 0x3FFFF), (0x11DB0, 0x11DDF))

CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

PROSE = """
Hello, world!
The quick brown fox jumps over the lazy dog.
I'm sure we'll say they've done what you'd expect; it's Bob's.
I'M SURE WE'LL SAY THEY'VE DONE WHAT YOU'D EXPECT; IT'S BOB'S.
“It’s ‘quoted’ — isn’t it?” … «oui», „ja“
Dr. Smith (b. 1970-01-02) paid $1,234.56, i.e. 99.9% of €1.000,00.
Wait... what?!?! No—really?? --- *** ___ ~~~ ===>
a.b,c;d:e!f?g(h)i[j]k{l}m<n>o/p\\q|r@s#t$u%v^w&x*y-z_
ΑΒΓ αβγ ςσ; Ελληνικά δεν είναι δύσκολα
Съешь же ещё этих мягких французских булок, да выпей чаю
Žluťoučký kůň úpěl ďábelské ódy; Zażółć gęślą jaźń; Árvíztűrő tükörfúrógép
Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul'da ıssız
Đây là tiếng Việt: một, hai, ba; Nguyễn
日本語のテキスト、ひらがなとカタカナ。「引用」（括弧）！
中文文本：你好，世界！简体字和繁體字。
한국어 문장입니다. 안녕하세요? ㅋㅋㅋ
ภาษาไทยไม่มีช่องว่าง สวัสดีครับ
हिन्दी में लिखा हुआ वाक्य। नमस्ते १२३
বাংলা ভাষা ৪৫৬ தமிழ் மொழி తెలుగు ಕನ್ನಡ മലയാളം
اللغة العربية جميلة، والأرقام ٠١٢٣٤٥٦٧٨٩
فارسی با نیم‌فاصله: می‌خواهم ۱۲۳
עברית מימין לשמאל: שָׁלוֹם עוֹלָם
mixed שלום and مرحبا in \u202bone\u202c line \u2067with isolates\u2069
ქართული ենգլերեն አማርኛ ᏣᎳᎩ ខ្មែរ မြန်မာ ລາວ བོད་ཡིག
½ ¼ ² ³ ¹ Ⅷ ⅷ ① ⑳ ㊿ ௧ ൰ 〇 一二三 ௰ 𝟘𝟙 𐄇 ༳
ﬁ ﬂ ß ẞ ſ ǆ ㎏ ℃ ™ ℵ ª º µ
∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, ∑ᵢ aᵢ ≤ ∞, ∫₀¹ f(t) dt ≠ √2 ± ½
𝓗𝓮𝓵𝓵𝓸 𝔽𝕣𝕒𝕜 𝐁𝐨𝐥𝐝 𐍈 𒀀 𓂀 𠀀 𪚥
😀😃😄 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ☺️ ❤️‍🔥 1️⃣ #️⃣ 🧑🏿‍💻
e\u0301 a\u030a o\u0308\u0304 Z\u0351\u036b\u0343\u036a\u0302\u036b a\u0300\u0301\u0302 \u0301 alone
\u1112\u1161\u11ab\u1100\u1173\u11af and \ud55c\uae00
""".strip("\n").split("\n")

CODE = (
    "#include <stdio.h>\nint main(void) {\n\tprintf(\"%d\\n\", 0x1F + 'a');\n\treturn 0;\n}\n",
    "template <typename T, size_t N = 8>\nauto f(T&& x) -> decltype(x) { return x << N; }",
    "def f(x: int = 3, *args, **kw) -> dict[str, int]:\n    return {f\"{k!r}\": v**2 for k in x}\n",
    "class A(B):\n    '''doc'''\n\n    @property\n    def x(self):\n        return self._x['s']\n",
    "fn main() {\n    let v: Vec<&'static str> = vec![\"a\"; 10];\n    println!(\"{:?}\", v);\n}\n",
    "func (s *Server) Run(ctx context.Context) error {\n\tif err := s.x(); err != nil {\n\t}\n}\n",
    "const f = async (x) => { await fetch(`/api/${x}?a=1&b=2`); return x?.y ?? null; };",
    "public static void main(String[] args) { System.out.println(\"Hi\\u0021\"); }",
    "SELECT a.id, COUNT(*) FROM t AS a WHERE a.x >= 10 AND b IS NOT NULL GROUP BY 1;",
    "for i in $(seq 1 10); do echo \"$i: ${x:-none}\" | tee -a log.txt 2>&1; done\n",
    "main :: IO ()\nmain = mapM_ (putStrLn . show) $ filter (\\x -> x `mod` 2 == 0) [1..10]\n",
    "\\begin{equation}\n  \\frac{a}{b} = \\sqrt[3]{x_{i}^{2}}\n\\end{equation}\n",
    ".card > a:hover::after { content: \"→\"; margin: -1px 0 .5em; color: #ff00AA; }\n",
    "<div class=\"a b\" data-x='1'><!-- c --><br/>&amp;&#39;&nbsp;</div>\n",
    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x-1\n  labels: {a: \"b\"}\n",
    "[package]\nname = \"x\"\nversion = \"0.1.0\"\n\n[dependencies]\nserde = { version = \"1\" }\n",
    "CMAKE_FLAGS := -O3 -march=native\nall:\n\t$(CC) $< -o $@\n",
    "diff --git a/x b/x\n@@ -1,3 +1,4 @@\n-old line\n+new line\n context\n",
    "{\"a\": [1, 2.5e-10, -3, true, null], \"b\": {\"\\u00e9\": \"x\\\\y\\\"z\"}}",
    "{\n  \"id\": 42,\n  \"tags\": [\n    \"x\",\n    \"y\"\n  ]\n}\n",
    "# Title\n\n* item **bold** _it_\n  1. nested `code`\n\n> quote\n\n```py\nx = 1\n```\n[a](b)\n",
    "| a | b |\n|:--|--:|\n| 1 | 2 |\n\n---\n\n- [x] done\n- [ ] open\n",
    "https://example.org:8080/a/b%20c.html?q=1&r=%E2%82%AC#frag-ment_2",
    "ftp://user:pa$$@10.0.0.1/~x mailto:first.last+tag@mail.example.co.uk ::1 fe80::1%eth0",
    "C:\\Users\\me\\file.txt /usr/lib/x86_64-linux-gnu/libc.so.6 ../../a/./b",
    "2026-11-22T21:30:00.123456Z 1e10 0xDEADBEEF 0b1010 1_000_000 192.168.1.1 v1.2.3-rc.4+5",
    "snake_case camelCase PascalCase SCREAMING_SNAKE kebab-case x1y2z3 HTTPServer2Go iOS17",
    "-----BEGIN KEY-----\nMIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu\n",
)

SPECIALS = (
    " <|im_end|>", "<|im_end|> ", "\n<|im_end|>\n", "\u00a0<|im_end|>\u3000", "a<|im_end|>b",
    "1<|im_end|>2", "'<|im_end|>s", "don<|im_end|>'t", "  <|im_start|>  user", "<|im_start",
    "<|im_start|", "im_start|>", "<|im_", "<|", "|>", "<", "<|im_start|>>", "<<|im_start|>>",
    "<|im_<|im_start|>start|>", "<|im_start<|im_end|>|>", "<|IM_START|>", "<|Im_End|>",
    "<| im_start |>", "<|im_start |>", "<|im\u200d_start|>", "<|im_start\u0301|>",
    "<|im_start|>\u0301", "<reponame", "<repo_name><reponame>", "<repo_reponame>", "<filename>x.c",
    "<file_sep><filename>a/b.py\nimport os\n<file_sep>", "</filename>", "<FILENAME>",
    "<gh_stars>10-100<issue_start>text<issue_comment>more<issue_closed>",
    "<jupyter_start><jupyter_text>T<jupyter_code>x=1\n<jupyter_output>1<empty_output>",
    "<|endoftext|>" * 20, "x<|endoftext|>\n\n<|endoftext|>y", "<|im_start|>system\n",
    "<|im_end|>\x04<|im_end|>", "\x00<|im_end|>\x00", "<|im_end|>\U00050000<|im_end|>",
)  # fmt: skip


def in_ranges(code_point, ranges):
    return any(first <= code_point <= last for first, last in ranges)


def draw_code_point(generator, lowest=0, highest=0x10FFFF):
    """A code point that is no surrogate and has the same class in every version from 14 on."""
    while True:
        code_point = generator.randint(lowest, highest)
        surrogate = 0xD800 <= code_point < 0xE000
        if not surrogate and not in_ranges(code_point, UNSETTLED):
            return chr(code_point)


def mixed(generator, alphabet, low, high):
    """A string of low..high members of the alphabet, each a character or a string."""
    return "".join(generator.choice(alphabet) for _ in range(generator.randint(low, high)))


def every_latin1():
    """Each of the first 256 code points, alone, inside a word, and doubled behind a space."""
    for code_point in range(256):
        yield chr(code_point)
    for code_point in range(256):
        yield f"a{chr(code_point)}b"
    for code_point in range(256):
        yield f"The {chr(code_point) * 2} 1{chr(code_point)}"


def spaces(generator):
    """Runs of every kind of space and of what is nearly one, between and around words."""
    for space in SPACES + NEARLY_SPACES:
        yield space * 2
        yield f"{space}x"
        yield f" {space} x {space}"
        yield f"x{space * 3}y{space}"
    for count in (3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 64, 100, 1000):
        yield " " * count
        yield "\n" * count + "end"
        yield "if x:" + " " * count + "y"
    yield from ("\r\n", "\r\n\r\n", "a\r\nb\r\n", "\n\r", "\r\r\n\n")
    yield from ("a\n \nb", " \n", "\n ", "\t \t")
    for _ in range(120):
        yield mixed(generator, list(" \n\t\r  ") + ["a", "1", "."] + list(SPACES), 1, 12)


def apostrophes(generator):
    """Contractions in every case and after everything."""
    for contraction in CONTRACTIONS:
        letters = contraction[1:]
        for form in (letters, letters.upper(), letters.capitalize(), letters[0] + letters.upper()):
            yield f"x'{form}"
            yield f" '{form} 9'{form}y ''{form}"
    yield from ("x\u2019s", "x'\u017f", "'", "''", "'''", " ' ")
    yield from ("'s's's", "'sun", "'re'd", "!'s", "\n't")
    for _ in range(100):
        alphabet = list("stremvld STLD'' '9é中\n!") + list(CONTRACTIONS)
        yield mixed(generator, alphabet, 1, 14)


def digits(generator):
    """Runs of digits: ASCII, other scripts', and numbers that are no decimal digits."""
    for count in (1, 2, 3, 9, 10, 33, 200):
        yield "".join(generator.choice("0123456789") for _ in range(count))
    others = "٠٣٩۴०५৭๓໙０９²½Ⅷ①〇〡一𝟘𐄇𒐀"
    for _ in range(100):
        yield mixed(generator, list("0123456789" * 2 + " .,-+eExn$%:/") + list(others), 2, 16)


def any_unicode(generator):
    """Characters from all planes: alone, in runs, and among ASCII."""
    for plane in range(17):
        for _ in range(6):
            low = plane << 16
            yield mixed(generator, [draw_code_point(generator, low, low | 0xFFFF), "a", " "], 1, 6)
    assigned = [
        chr(code_point)
        for code_point in range(0x20000)
        if unicodedata.category(chr(code_point)) not in ("Cn", "Cs", "Co")
        and not in_ranges(code_point, UNSETTLED)
    ]
    for _ in range(160):
        yield mixed(generator, assigned, 1, 10)
    for _ in range(120):
        some = [generator.choice(assigned) for _ in range(4)]
        yield mixed(generator, some + list("aZ09 '.\n"), 2, 16)
    for _ in range(80):
        yield "".join(draw_code_point(generator) for _ in range(generator.randint(1, 6)))
    for first in (0x300, 0x400, 0x590, 0x600, 0x900, 0xE00, 0x3040, 0x4E00, 0xAC00, 0x1F600):
        for _ in range(8):
            block = [chr(first + generator.randrange(96)) for _ in range(8)]
            yield mixed(generator, block + [" ", "\u0301", "\u200d", "\ufe0f"], 2, 14)


def bytes_without_token():
    """Characters of whose UTF-8 bytes some or all have no token and are dropped."""
    for character in "\x04\x06\x13\x14\x16\x1d":
        yield f"one {character} two{character}{character}\n{character}"
    yield "\x04\x06\x13\x14\x16\x1d"
    for plane in range(4, 17):
        yield f"x{chr(plane << 16)} {chr((plane << 16) + 0xFFFD)}y"
    yield "\x04'\x06s \x13 \x14 1\x162"


def long_strings(generator):
    """Words of 2,000 characters and texts of about 5,000."""
    for word in ("a", "ab", "A", "!", "é", "=-", "lorem", "0"):
        yield (word * 2000)[:2000]
    yield "".join(generator.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(2000))
    yield "".join(generator.choice("etaoinshrdlu") for _ in range(2000))
    yield "".join(chr(generator.randrange(0x4E00, 0x9FA5)) for _ in range(700))
    yield "👩‍👩‍👧‍👦" * 60
    yield "".join(generation_prompts.diary())[:5000]
    yield "".join(generation_prompts.source_file())[:5000]
    yield ("\n".join(PROSE) + "\n" + "\n\n".join(CODE))[:5000]


def specials(generator):
    """Names of control tokens: alone, adjacent, partial, in text, and drawn at random."""
    for name in CONTROL:
        yield name
        yield f"{name}{name} x {name}y"
        yield name[:-1] + name
    yield from SPECIALS
    for prompt in generation_prompts.CHAT:
        yield prompt.text
    parts = ["<", "|", ">", "<|", "|>", "im_start", " ", "\n", "user", "a", "1", "é", "'s"]
    parts = CONTROL + parts
    for _ in range(130):
        yield mixed(generator, parts, 2, 7)


def vocabulary(generator, pieces):
    """Words of the vocabulary itself, alone and in chance company. pieces: their text."""
    for piece in pieces[:: len(pieces) // 150]:
        yield piece
    for _ in range(260):
        yield mixed(generator, pieces, 2, 9)


def ascii_mixes(generator):
    """Random ASCII, printable and not."""
    for _ in range(200):
        yield "".join(chr(generator.randrange(32, 127)) for _ in range(generator.randint(2, 24)))
    for _ in range(60):
        yield "".join(chr(generator.randrange(128)) for _ in range(generator.randint(2, 16)))


def all_strings(pieces):
    """Every string once, in a fixed order. pieces: the vocabulary, as far as it is text."""
    generator = random.Random(20261122)
    groups = (
        ["", *PROSE, *CODE],
        [prompt.text for prompt in generation_prompts.SHORT],
        every_latin1(),
        spaces(generator),
        apostrophes(generator),
        digits(generator),
        any_unicode(generator),
        bytes_without_token(),
        long_strings(generator),
        specials(generator),
        vocabulary(generator, pieces),
        ascii_mixes(generator),
    )
    return list(dict.fromkeys(text for group in groups for text in group))


def newer_unicode():
    """Strings whose ids can depend on knowing the letters and digits of Unicode 15 to 17."""
    generator = random.Random(17)
    texts = []
    for ranges in (NEWER_LETTERS, NEWER_DIGITS):
        for first, last in ranges:
            character = chr(generator.randint(first, last))
            texts.append(f"{character}'s {character}a!{character}1 {character}\n {character}")
    return texts
