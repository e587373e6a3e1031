"""tools/roofline_svg.py on made-up measurements."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "roofline_svg.py"
DEVICE = {"device": "A <GPU> & more", "copy_bytes_per_s": 4e12, "product_flop_per_s": 6e14}


def measured(kernel, times):
    return [{"kernel": kernel, "tokens": tokens, "ms": ms, "bytes": 1e4 * tokens, "flop": 1e6 * tokens}
            for tokens, ms in times]


# One grows with the length, one with its square: they meet where 0.1 n / 1024 = 0.1 (n / 1024)^2 / 4, at 4096.
SCAN = measured("ssd_scan", [(n, 0.1 * n / 1024) for n in (512, 1024, 2048, 8192, 16384)])
ATTENTION = measured("attention", [(n, 0.1 * (n / 1024) ** 2 / 4) for n in (1024, 2048, 8192)])


class RooflineSvg(unittest.TestCase):
    def run_on(self, lines, *options):
        with tempfile.TemporaryDirectory() as folder:
            source, picture = pathlib.Path(folder, "bench.txt"), pathlib.Path(folder, "picture.svg")
            source.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines),
                              encoding="utf-8")
            done = subprocess.run([sys.executable, TOOL, source, picture, *options], capture_output=True, text=True)
            return done.returncode, done.stderr, picture.read_text(encoding="utf-8") if picture.exists() else ""

    def draws(self, lines, *options):
        code, stderr, picture = self.run_on(lines, *options)
        self.assertEqual((code, stderr), (0, ""))
        root = xml.etree.ElementTree.fromstring(picture)  # well-formed
        return root, [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]

    def refuses(self, lines, message, *options):
        code, stderr, picture = self.run_on(lines, *options)
        self.assertEqual((code, picture), (1, ""))
        self.assertEqual(stderr.count("\n"), 1)
        self.assertIn(message, stderr)

    def test_curves_limits_and_where_they_cross(self):
        root, texts = self.draws([DEVICE, *SCAN, *ATTENTION])
        self.assertEqual(len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))), 2 + 2 * 2)
        self.assertIn("SSD scan and attention cross at 4096 tokens", texts)
        self.assertIn("Time against sequence length, A <GPU> & more", texts)
        for label in ("512", "16K", "0.01", "SSD scan", "attention"):
            self.assertIn(label, texts)

    def test_points_lie_where_the_logarithms_say(self):
        root, _ = self.draws([DEVICE, *SCAN, *ATTENTION])
        places = [(float(c.get("cx")), float(c.get("cy")))
                  for c in root.iter("{http://www.w3.org/2000/svg}circle") if c.get("r") == "3"][:5]
        steps = [b[0] - a[0] for a, b in zip(places, places[1:])]
        self.assertAlmostEqual(steps[0], steps[1], delta=0.11)
        self.assertAlmostEqual(steps[2], 2 * steps[0], delta=0.2)  # 2048 to 8192
        self.assertTrue(all(b[1] < a[1] for a, b in zip(places, places[1:])))  # longer takes longer: further up

    def test_a_faster_kernel_at_every_length_is_said_so(self):
        _, texts = self.draws([DEVICE, *SCAN, *measured("attention", [(512, 1.0), (4096, 9.0)])])
        self.assertIn("SSD scan is faster at every length measured", texts)

    def test_other_lines_and_order_do_not_count(self):
        _, texts = self.draws(["130m batch 1, us a layer", *reversed(ATTENTION), {"name": "rms_norm", "ms": 1},
                               *SCAN, DEVICE])
        self.assertIn("SSD scan and attention cross at 4096 tokens", texts)

    def test_somebody_elses_times_are_drawn(self):
        root, texts = self.draws([DEVICE, *SCAN, *ATTENTION], "--also", "cuDNN=16384:3.06,65536:47.4")
        self.assertIn("cuDNN", texts)
        self.assertIn("64K", texts)
        _, texts = self.draws([DEVICE, *SCAN, *ATTENTION], "--also", "cuDNN=512:0.01,16384:4")
        self.assertTrue(any("attention cross at 4096 tokens; SSD scan and cuDNN cross at" in text for text in texts))
        self.assertEqual(len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))), 7)

    def test_unusable_input_is_told_in_a_line(self):
        self.refuses([*SCAN, *ATTENTION], "no line with 'device'")
        self.refuses([DEVICE, *SCAN], "0 lengths of 'attention', expected 2 or more")
        self.refuses([DEVICE, *SCAN, *ATTENTION, '{"kernel": "ssd_scan"'], "is no JSON object")
        for bad in (0, -1, "x", None, True, float("nan")):
            self.refuses([DEVICE, {**SCAN[0], "ms": bad}, *ATTENTION], "line 2: 'ms' is")
        self.refuses([DEVICE, *SCAN, *ATTENTION], "expected NAME=TOKENS:MS", "--also", "cuDNN=16384")


if __name__ == "__main__":
    unittest.main()
