"""kernel(<stem>) of cmake/Rooms.cmake refuses a kernel that lacks one of its four files. Runs cmake
on throw-away projects."""

import pathlib
import subprocess
import tempfile
import unittest

ROOMS = pathlib.Path(__file__).resolve().parent.parent / "cmake" / "Rooms.cmake"

PROJECT = f"""
cmake_minimum_required(VERSION 3.25)
project(throw_away LANGUAGES NONE)
include("{ROOMS}")
add_custom_target(penstock_core)
kernel(x)
get_property(stems GLOBAL PROPERTY PENSTOCK_KERNELS)
get_property(device GLOBAL PROPERTY PENSTOCK_CUDA_KERNELS)
get_target_property(sources penstock_core SOURCES)
message(STATUS "stems: ${{stems}} | sources: ${{sources}} | device: ${{device}} |")
"""

DEVICE = "cuda/kernels/x.cu"
FILES = ("core/kernels/x.h", "core/kernels/x.cc", DEVICE, "tests/kernels/x_test.cc")


class KernelRule(unittest.TestCase):
    def configure(self, files, *arguments):
        """cmake's exit status and its output on one line, paths below the project's root."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name in files:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).touch()
            (root / "CMakeLists.txt").write_text(PROJECT)
            done = subprocess.run(["cmake", "-G", "Ninja", "-S", folder, "-B", folder + "/build",
                                   *arguments],
                                  capture_output=True, text=True, timeout=60)
            output = " ".join((done.stdout + done.stderr).split())
            return done.returncode, output.replace(folder + "/", "")

    def accepted(self, files, *arguments):
        status, output = self.configure(files, *arguments)
        self.assertEqual(0, status, output)
        return output

    def test_takes_four_files(self):
        output = self.accepted(FILES)
        self.assertIn("stems: x | sources: core/kernels/x.cc | device: |", output)

    def test_takes_a_simd_version_along(self):
        output = self.accepted(FILES + ("core/kernels/x_simd.cc",))
        self.assertIn("sources: core/kernels/x.cc;core/kernels/x_simd.cc |", output)

    def test_hands_device_code_to_cuda(self):
        output = self.accepted(FILES, "-DPENSTOCK_CUDA=ON")
        self.assertIn(f"device: {DEVICE} |", output)

    def test_refuses_a_missing_file(self):
        for name in FILES:
            with self.subTest(name):
                status, output = self.configure([file for file in FILES if file != name])
                self.assertNotEqual(0, status)
                self.assertIn(f"kernel(x): {name} is missing", output)


if __name__ == "__main__":
    unittest.main()
