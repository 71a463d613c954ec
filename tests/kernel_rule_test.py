"""kernel(<stem>) of cmake/Rooms.cmake refuses a kernel that lacks one of its four files, and a
cuda/PENDING that does not say how things are. Runs cmake on throw-away projects."""

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

HOST = ("core/kernels/x.h", "core/kernels/x.cc", "tests/kernels/x_test.cc")
DEVICE = "cuda/kernels/x.cu"


class KernelRule(unittest.TestCase):
    def configure(self, files, pending, *arguments):
        """cmake's exit status and its output on one line, paths below the project's root."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name in files:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).touch()
            (root / "cuda").mkdir(exist_ok=True)
            (root / "cuda" / "PENDING").write_text("# Stems without device code.\n" + pending)
            (root / "CMakeLists.txt").write_text(PROJECT)
            done = subprocess.run(["cmake", "-G", "Ninja", "-S", folder, "-B", folder + "/build",
                                   *arguments],
                                  capture_output=True, text=True, timeout=60)
            output = " ".join((done.stdout + done.stderr).split())
            return done.returncode, output.replace(folder + "/", "")

    def accepted(self, files, pending, *arguments):
        status, output = self.configure(files, pending, *arguments)
        self.assertEqual(0, status, output)
        return output

    def refused(self, files, pending, message):
        status, output = self.configure(files, pending)
        self.assertNotEqual(0, status)
        self.assertIn(message, output)

    def test_takes_four_files(self):
        output = self.accepted(HOST + (DEVICE,), "")
        self.assertIn("stems: x | sources: core/kernels/x.cc | device: |", output)

    def test_takes_a_simd_version_along(self):
        output = self.accepted(HOST + (DEVICE, "core/kernels/x_simd.cc"), "")
        self.assertIn("sources: core/kernels/x.cc;core/kernels/x_simd.cc |", output)

    def test_hands_device_code_to_cuda(self):
        output = self.accepted(HOST + (DEVICE,), "", "-DPENSTOCK_CUDA=ON")
        self.assertIn("device: cuda/kernels/x.cu |", output)
        output = self.accepted(HOST, "x\n", "-DPENSTOCK_CUDA=ON")
        self.assertIn("device: |", output)

    def test_refuses_a_missing_file(self):
        for name in HOST:
            with self.subTest(name):
                files = [file for file in HOST + (DEVICE,) if file != name]
                self.refused(files, "", f"kernel(x): {name} is missing")

    def test_refuses_missing_device_code_unless_pending(self):
        self.refused(HOST, "", f"kernel(x): {DEVICE} is missing")
        self.refused(HOST, "y\n", f"kernel(x): {DEVICE} is missing")
        self.accepted(HOST, "w\nx\n")

    def test_pending_excuses_no_host_file(self):
        self.refused(HOST[:2], "x\n", "kernel(x): tests/kernels/x_test.cc is missing")

    def test_refuses_pending_with_device_code(self):
        self.refused(HOST + (DEVICE,), "x\n", f"kernel(x): {DEVICE} exists, so take x off cuda/PENDING")


if __name__ == "__main__":
    unittest.main()
