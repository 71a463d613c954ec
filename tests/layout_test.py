"""Checks the tree against the project's layout rules (ARCHITECTURE.md): who may include whom, that
every source and test is in the build, file sizes, a kernel's four files, names.

Each check is a function over a tree, a dict from path to text, that returns its findings as
sentences; the second half feeds every check a tree that breaks its rule.
"""

import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROOMS = ("core", "cuda", "proto", "worker", "frontend", "tests", "deploy")
CODE = (".h", ".cc", ".cu", ".cuh")
SOURCE = CODE + (".py", ".proto", ".cmake", ".sh")
MAX_LINES, MAX_HEADER_LINES = 600, 150

# Room -> rooms that it may include; "penstock" is what protoc makes of proto/penstock. tests/ may
# include everything.
ARROWS = {
    "core": {"core"},
    "cuda": {"core", "cuda"},
    "proto": {"core", "proto", "penstock"},
    "worker": {"core", "proto", "penstock", "worker"},
    "frontend": {"core", "proto", "penstock", "worker", "frontend"},
}
EXTRA_ARROWS = {("worker", "cuda/cuda_backend.h"), ("worker", "cuda/ceilings.h"),
                ("worker", "cuda/gemm_tuner.h"), ("worker", "cuda/link_stream.h"),
                ("worker", "cuda/peer_memory.h")}

RPC_PLACES = r"frontend/|worker/([\w/]+/)?\w+_(service|server)\.(h|cc)$|worker/transport/grpc"
# (library, headers that begin its include, files below which it is allowed)
LIBRARIES = (
    ("CUDA", r"(cuda|cublas|cudnn|curand|nvrtc|nvml|nvToolsExt)\w*\.h$|(cub|cute|cutlass|nvtx3|cooperative_groups)[/.]",
     r"cuda/|worker/transport/(nccl|peer)"),
    ("NCCL", r"nccl\.h$", r"worker/transport/nccl\w*\.cc$"),
    ("sentencepiece", r"sentencepiece", r"core/tokenizer/\w+\.cc$"),
    ("gRPC", r"grpc(pp|\+\+)?/|.*\.grpc\.pb\.h$", RPC_PLACES),
    ("protobuf", r"google/protobuf/|.*\.pb\.h$", RPC_PLACES + r"|proto/"),
    ("CLI11", r"CLI/", r"frontend/(main\.cc|command_flags\.h)$|worker/main\.cc$"),
    ("spdlog", r"spdlog/|fmt/", r"core/base/log\.cc$"),
    ("prometheus-cpp", r"prometheus/", r"frontend/metric_set\.cc$"),
    ("civetweb", r"civetweb\.h$|CivetServer\.h$", r"frontend/http_server\.cc$"),
)
IN_ONE_FILE = ("NCCL", "sentencepiece")

# An -inl.h is included again for every instruction set, and so has another guard.
HIGHWAY_GUARD = r"#if defined\(\w+\) == defined\(HWY_TARGET_TOGGLE\)$"


def includes(text):
    return re.findall(r'^[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">]', text, re.M)


def room_of(path):
    return path.split("/")[0]


def stem_of(path):
    return path.rsplit("/", 1)[-1].split(".")[0]


def without_comments(cmake):
    return re.sub(r"#.*", "", cmake)


def check_arrows(tree):
    for path, text in tree.items():
        room = room_of(path)
        if not path.endswith(CODE) or room not in ARROWS:
            continue
        for header in includes(text):
            target = room_of(header)
            if ".." in header.split("/"):
                yield f"{path} includes {header}: write the path from the project's root"
            elif target in ROOMS + ("penstock",) and "/" in header:
                if target not in ARROWS[room] and (room, header) not in EXTRA_ARROWS:
                    yield f"{path} includes {header}: {room}/ may not include {target}/"


def check_libraries(tree):
    users = {name: [] for name in IN_ONE_FILE}
    for path, text in tree.items():
        if not path.endswith(CODE) or room_of(path) in ("tests", "deploy"):
            continue
        found = includes(text)
        for name, headers, places in LIBRARIES:
            hits = [header for header in found if re.match(headers, header)]
            if hits and not re.match(places, path):
                yield f"{path} includes {hits[0]}: {name} is not allowed there"
            if hits and name in users:
                users[name].append(path)
        if any(re.match("sentencepiece", header) for header in found):
            for header in found:
                if re.match(r"absl/|grpc|google/protobuf/|.*\.pb\.h$", header):
                    yield f"{path} includes sentencepiece and {header}: two protobufs would meet"
    for name, paths in users.items():
        if len(paths) > 1:
            yield f"{name} is included by {', '.join(sorted(paths))}: one file only"


def calls(tree, function):
    """The first arguments of function(...) in every CMakeLists.txt."""
    for path, text in tree.items():
        if path.endswith("CMakeLists.txt"):
            yield from re.findall(rf"\b{function}\(\s*([\w/]+)", without_comments(text))


def check_in_build(tree):
    stems = set(calls(tree, "kernel"))
    by_kernel = {f"tests/kernels/{stem}_test.cc" for stem in stems}
    by_kernel |= {f"core/kernels/{stem}{end}.cc" for stem in stems for end in ("", "_simd")}
    named = {f"tests/{name}.cc" for name in calls(tree, "penstock_test")}
    named |= {f"tests/{name}.py" for name in calls(tree, "penstock_python_test")}
    for path, text in tree.items():
        if path.endswith("CMakeLists.txt") and room_of(path) in ROOMS:
            words = re.findall(r"[\w/.]+\.(?:cc|cu|py)\b", without_comments(text))
            folder = path[: -len("CMakeLists.txt")]
            named |= {folder + word for word in words}
    for path in tree:
        if path.startswith("tests/"):
            wanted = re.search(r"_test\.(cc|py)$", path)
        else:
            wanted = room_of(path) in ARROWS and path.endswith(".cc")
        if wanted and path not in named and path not in by_kernel:
            yield f"{path} is in no CMakeLists.txt: it is never built or run"


def check_kernels(tree):
    declared = set(calls(tree, "kernel"))
    device = {stem_of(path) for path in tree if re.match(r"cuda/kernels/\w+\.cu$", path)}
    for stem in sorted(device - declared):
        yield f"cuda/kernels/{stem}.cu has no kernel({stem}) line"
    for stem in sorted(declared):
        for path in (f"core/kernels/{stem}.h", f"core/kernels/{stem}.cc",
                     f"cuda/kernels/{stem}.cu", f"tests/kernels/{stem}_test.cc"):
            if path not in tree:
                yield f"kernel({stem}): {path} is missing"


def check_names(tree):
    for path, text in tree.items():
        if room_of(path) not in ROOMS:
            continue
        if path.endswith(SOURCE):
            for part in path.split("/"):
                if not re.fullmatch(r"[a-z][a-z0-9_]*(-inl\.h|\.[a-z]+)?", part):
                    yield f"{path}: '{part}' is not snake_case"
        if path.endswith((".h", ".cuh")):
            guard = HIGHWAY_GUARD if path.endswith("-inl.h") else r"#pragma once$"
            if not re.search("^" + guard, text, re.M):
                yield f"{path} does not have the line {guard}"


def is_measured(path):
    """What people write and read: not data, not LICENSE."""
    script = room_of(path) in ROOMS + ("scripts", ".ci") and "." not in path.rsplit("/", 1)[-1]
    return script or path.endswith(SOURCE + (".md", "CMakeLists.txt"))


def check_sizes(tree):
    for path, text in tree.items():
        if is_measured(path) and text.count("\n") > MAX_LINES:
            yield f"{path} has {text.count(chr(10))} lines, more than {MAX_LINES}: split it"


def long_headers(tree):
    for path, text in tree.items():
        if path.endswith((".h", ".cuh")) and text.count("\n") > MAX_HEADER_LINES:
            yield f"{path} has {text.count(chr(10))} lines: a header over {MAX_HEADER_LINES} owns too much"


# In two parts each, so that this file passes its own check.
LEFTOVERS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "DIS" + "ABLED_")) + ")")


def check_leftovers(tree):
    for path, text in tree.items():
        if is_measured(path):
            for number, line in enumerate(text.splitlines(), 1):
                if found := LEFTOVERS.search(line):
                    yield f"{path}:{number} says {found.group()}: finish it or leave it out"


CHECKS = (check_arrows, check_libraries, check_in_build, check_kernels, check_names, check_sizes,
          check_leftovers)


def read_tree(root):
    tree = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if re.match(r"build/|\.git(/|$)|\.cache/|.*__pycache__/", name) or not path.is_file():
            continue
        if name.endswith(SOURCE + (".md", ".txt")) or "." not in path.name:
            tree[name] = path.read_text(encoding="utf-8")
    return tree


class TheProject(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tree = read_tree(ROOT)

    def test_was_read(self):
        self.assertIn("core/base/check.h", self.tree)
        self.assertIn("cuda/launch.h", self.tree)
        self.assertIn("tests/CMakeLists.txt", self.tree)

    def test_keeps_every_rule(self):
        for check in CHECKS:
            with self.subTest(check.__name__):
                self.assertEqual([], list(check(self.tree)))
        for warning in long_headers(self.tree):
            print("warning:", warning, file=sys.stderr)


class TheChecks(unittest.TestCase):
    def caught(self, check, tree, *sentences):
        findings = list(check(tree))
        self.assertEqual(len(sentences), len(findings), findings)
        for sentence in sentences:
            self.assertTrue(any(sentence in finding for finding in findings), (sentence, findings))

    def includes_caught(self, check, path, header, sentence):
        self.caught(check, {path: f'#pragma once\n#include "{header}"\n'}, sentence)

    def includes_allowed(self, check, path, header):
        self.caught(check, {path: f'#include "{header}"\n'})

    def test_arrows(self):
        for path, header in (
                ("core/a.h", "cuda/stream.h"), ("core/a.cc", "proto/codec.h"),
                ("core/a.cc", "worker/stage.h"), ("core/a.cc", "frontend/x.h"),
                ("core/a.cc", "penstock/v1/inference.pb.h"), ("cuda/a.cu", "worker/stage.h"),
                ("cuda/a.cc", "proto/codec.h"), ("proto/a.cc", "worker/stage.h"),
                ("proto/a.cc", "frontend/x.h"), ("worker/a.cc", "frontend/x.h"),
                ("worker/a.cc", "cuda/stream.h"), ("frontend/a.cc", "cuda/cuda_backend.h"),
                ("frontend/a.cc", "tests/support/data.h")):
            self.includes_caught(check_arrows, path, header, "may not include")
        self.includes_caught(check_arrows, "core/a.cc", "../cuda/stream.h", "project's root")
        self.caught(check_arrows, {"core/a.cc": "  # include <cuda/stream.h>\n"}, "may not include")
        for path, header in (
                ("core/a.cc", "core/b.h"), ("cuda/a.cu", "core/b.h"), ("proto/a.cc", "core/b.h"),
                ("worker/a.cc", "cuda/cuda_backend.h"), ("worker/a.cc", "cuda/ceilings.h"),
                ("worker/a.cc", "cuda/peer_memory.h"), ("worker/a.cc", "proto/codec.h"),
                ("frontend/a.cc", "worker/stage.h"), ("tests/a_test.cc", "cuda/stream.h"),
                ("core/a.cc", "absl/status/status.h")):
            self.includes_allowed(check_arrows, path, header)

    def test_libraries(self):
        for path, header in (
                ("core/a.cc", "cuda_runtime.h"), ("worker/stage.cc", "cuda_runtime_api.h"),
                ("frontend/a.cc", "cublasLt.h"), ("core/a.h", "cute/tensor.hpp"),
                ("cuda/a.cc", "nccl.h"), ("worker/transport/nccl_transport.h", "nccl.h"),
                ("core/io/a.cc", "sentencepiece_processor.h"), ("worker/stage.cc", "grpcpp/server.h"),
                ("core/a.cc", "grpc/support/log.h"), ("proto/a.h", "grpcpp/grpcpp.h"),
                ("worker/stage.cc", "google/protobuf/arena.h"), ("worker/stage.h", "x/worker.pb.h"),
                ("frontend/serve.cc", "CLI/CLI.hpp"), ("core/io/a.cc", "spdlog/spdlog.h"),
                ("worker/a.cc", "fmt/format.h"), ("frontend/metrics.cc", "prometheus/counter.h"),
                ("frontend/status_page.cc", "civetweb.h")):
            self.includes_caught(check_libraries, path, header, "is not allowed there")
        self.includes_caught(check_libraries, "proto/a.cc", "penstock/v1/x.grpc.pb.h", "gRPC")
        for path, header in (
                ("cuda/a.cu", "cuda_bf16.h"), ("worker/transport/peer_transport.cc", "cuda_runtime.h"),
                ("worker/transport/nccl_transport.cc", "nccl.h"),
                ("core/tokenizer/sentencepiece_tokenizer.cc", "sentencepiece_processor.h"),
                ("worker/worker_service.h", "grpcpp/grpcpp.h"),
                ("worker/worker_server.cc", "grpcpp/grpcpp.h"), ("worker/main.cc", "CLI/CLI.hpp"), ("frontend/a.h", "grpcpp/server.h"),
                ("worker/transport/grpc_transport.cc", "x/worker.pb.h"),
                ("proto/codec.cc", "google/protobuf/arena.h"), ("frontend/main.cc", "CLI/CLI.hpp"),
                ("core/base/log.cc", "spdlog/spdlog.h"), ("frontend/http_server.cc", "civetweb.h"),
                ("frontend/metric_set.cc", "prometheus/text_serializer.h"),
                ("tests/e2e/a_test.cc", "grpcpp/grpcpp.h"),
                ("worker/a.cc", "cuda/cuda_backend.h")):
            self.includes_allowed(check_libraries, path, header)

    def test_libraries_of_one_file(self):
        nccl = '#include "nccl.h"\n'
        self.caught(check_libraries, {"worker/transport/nccl_a.cc": nccl,
                                      "worker/transport/nccl_b.cc": nccl}, "one file only")
        self.caught(check_libraries, {"core/tokenizer/a.cc":
                                      '#include "sentencepiece_processor.h"\n'
                                      '#include "absl/status/status.h"\n'}, "two protobufs")

    def test_in_build(self):
        tests = "penstock_test(core/a_test\n  LIBS x)\npenstock_python_test(b_test)\n"
        whole = {"tests/CMakeLists.txt": tests, "tests/core/a_test.cc": "", "tests/b_test.py": "",
                 "core/CMakeLists.txt": "add_library(x\n  io/gguf.cc)\nkernel(swiglu)\n",
                 "core/io/gguf.cc": "", "core/kernels/swiglu.cc": "",
                 "core/kernels/swiglu_simd.cc": "", "tests/kernels/swiglu_test.cc": "",
                 "tests/support/data.cc": ""}
        self.caught(check_in_build, whole)
        for path in ("tests/core/c_test.cc", "tests/d_test.py", "core/io/other.cc", "gguf.cc",
                     "frontend/gguf.cc", "worker/a.cc", "proto/a.cc", "core/kernels/gemv.cc",
                     "tests/kernels/gemv_test.cc"):
            expected = () if path == "gguf.cc" else (f"{path} is in no CMakeLists.txt",)
            self.caught(check_in_build, whole | {path: ""}, *expected)
        out = tests.replace("penstock_test", "# penstock_test", 1)
        self.caught(check_in_build, whole | {"tests/CMakeLists.txt": out}, "core/a_test.cc is in no")

    def test_kernels(self):
        whole = {"core/CMakeLists.txt": "kernel(a)\nkernel(b)\n", "core/kernels/ops.h": ""}
        for stem in "ab":
            whole |= {f"core/kernels/{stem}.h": "", f"core/kernels/{stem}.cc": "",
                      f"cuda/kernels/{stem}.cu": "", f"tests/kernels/{stem}_test.cc": ""}
        self.caught(check_kernels, whole)
        for path in ("core/kernels/a.h", "core/kernels/b.cc", "cuda/kernels/b.cu",
                     "tests/kernels/a_test.cc"):
            without = {key: text for key, text in whole.items() if key != path}
            self.caught(check_kernels, without, f"{path} is missing")
        self.caught(check_kernels, whole | {"cuda/kernels/c.cu": ""}, "no kernel(c) line")

    def test_names(self):
        once = "// What.\n#pragma once\n"
        self.caught(check_names, {"core/a_b/c2.h": once, "README.md": "", "tests/CMakeLists.txt": ""})
        self.caught(check_names, {"core/RmsNorm.cc": ""}, "not snake_case")
        self.caught(check_names, {"core/Kernels/a.cc": ""}, "not snake_case")
        self.caught(check_names, {"tests/a-b.py": ""}, "not snake_case")
        self.caught(check_names, {"core/a.h": "#ifndef A\n#define A\n"}, "#pragma once")
        toggle = "#if defined(A_INL_H_) == defined(HWY_TARGET_TOGGLE)\n"
        self.caught(check_names, {"core/a-inl.h": toggle})
        self.caught(check_names, {"core/a-inl.h": once}, "HWY_TARGET_TOGGLE")
        self.caught(check_names, {"core/a-inl.cc": ""}, "not snake_case")

    def test_sizes(self):
        self.caught(check_sizes, {"core/a.cc": "\n" * 600, "tests/golden/a.json": "\n" * 601})
        for path in ("core/a.cc", "tests/a.py", "README.md", "scripts/test", "core/CMakeLists.txt"):
            self.caught(check_sizes, {path: "\n" * 601}, "split it")
        self.caught(long_headers, {"core/a.h": "\n" * 151}, "owns too much")
        self.caught(long_headers, {"core/a.h": "\n" * 150, "core/a.cc": "\n" * 151})

    def test_leftovers(self):
        for word in ("TO" + "DO", "FIX" + "ME", "DIS" + "ABLED_Case"):
            for path in ("core/a.cc", "scripts/setup", "README.md"):
                self.caught(check_leftovers, {path: f"// one\n// {word}(me): later\n"}, f"{path}:2")


if __name__ == "__main__":
    unittest.main()
