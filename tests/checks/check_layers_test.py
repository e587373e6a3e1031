"""tools/check_layers.py against small trees, each with one thing right or wrong."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECKER = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_layers.py"


class CheckLayers(unittest.TestCase):
    def run_on(self, files: dict[str, str]) -> tuple[int, str]:
        with tempfile.TemporaryDirectory() as root:
            for name, text in files.items():
                path = pathlib.Path(root, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            done = subprocess.run([sys.executable, CHECKER, root], capture_output=True, text=True)
            return done.returncode, done.stdout.replace(root + "/", "")

    def accepts(self, name: str, text: str):
        self.assertEqual(self.run_on({name: text}), (0, ""))

    def refuses(self, name: str, text: str, offence: str):
        self.assertEqual(self.run_on({name: text}), (1, f"{name}:{offence}\n"))

    def test_lower_rows_own_folder_and_libraries_are_fine(self):
        self.accepts("mamba2/ops/a.cpp",
                     '#include "mamba2/ops/a.h"\n#include <vector>\n#include "mamba2/base/error.h"\n')

    def test_an_upward_include_names_file_line_and_both_layers(self):
        self.refuses("mamba2/tensor/a.h", '#pragma once\n#include "mamba2/model/config.h"\n',
                     "2: tensor includes mamba2/model/config.h, but model is above it")

    def test_a_sibling_is_refused(self):
        self.refuses("mamba2/cpu/a.cpp", '#include "mamba2/reference/scan.h"\n',
                     "1: cpu includes mamba2/reference/scan.h, but reference is a sibling")

    def test_backends_are_only_for_the_composition_root(self):
        self.accepts("mamba2/devices/a.cpp", '#include "mamba2/cpu/cpu_backend.h"\n')
        self.refuses("mamba2/model/a.cpp", '#include "mamba2/cpu/cpu_backend.h"\n',
                     "1: model includes mamba2/cpu/cpu_backend.h, but cpu is only for app, capi, devices, python")

    def test_angle_brackets_are_held_to_the_same(self):
        self.refuses("mamba2/base/a.cu", "#  include <mamba2/ops/op.h>\n",
                     "1: base includes mamba2/ops/op.h, but ops is above it")

    def test_a_path_without_its_layer_is_refused(self):
        self.refuses("mamba2/ops/a.cpp", '#include "../model/config.h"\n',
                     '1: "../model/config.h" hides its layer, write "mamba2/ops/..."')

    def test_a_way_around_by_dots_is_refused(self):
        self.refuses("mamba2/base/a.cpp", '#include "mamba2/base/../model/config.h"\n',
                     '1: "mamba2/base/../model/config.h" is no "mamba2/LAYER/FILE"')

    def test_a_folder_that_is_no_layer_is_refused(self):
        self.refuses("mamba2/misc/a.h", "\n", "1: mamba2/misc is no layer, give it a row in check_layers.py")

    def test_every_offence_is_told(self):
        status, told = self.run_on({"mamba2/base/a.h": '#include "mamba2/ops/a.h"\n#include "mamba2/app/a.h"\n',
                                    "mamba2/hub/b.h": '#include "mamba2/checkpoint/b.h"\n'})
        self.assertEqual((status, told.count("\n")), (1, 3))


if __name__ == "__main__":
    unittest.main()
