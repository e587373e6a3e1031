"""tools/setup.sh on a make-believe system: apt-get, dpkg-query, sudo and id are scripts that note their calls."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ["bash", "awk", "sort", "grep", "dirname", "env", "cat"]
PACKAGES = [line.split() for line in (ROOT / "tools/apt-packages.txt").read_text().splitlines()
            if line and not line.startswith("#")]


class System:
    """A folder that stands for PATH, and one file a package for what is installed."""

    def __init__(self, folder: str, user: int, apt: bool = True):
        self.path = pathlib.Path(folder)
        self.calls = self.path / "calls"
        self.calls.touch()
        (self.path / "installed").mkdir()
        for tool in TOOLS:
            (self.path / tool).symlink_to(shutil.which(tool))
        self.script("id", f"echo {user}")
        if apt:
            self.script("dpkg-query", f'[ -e "{folder}/installed/${{!#}}" ] && echo installed')
            self.script("apt-get", f'echo "apt-get $*" >> {self.calls}')

    def script(self, name: str, body: str):
        file = self.path / name
        file.write_text(f"#!{shutil.which('bash')}\n{body}\n")
        file.chmod(0o755)

    def install(self, *groups: str):
        for group, package in PACKAGES:
            if group in groups:
                (self.path / "installed" / package).touch()

    def setup(self, *groups: str) -> subprocess.CompletedProcess:
        return subprocess.run([ROOT / "tools/setup.sh", *groups], env={"PATH": str(self.path)},
                              capture_output=True, text=True)


class Setup(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def system(self, **how) -> System:
        return System(self.folder.name, **how)

    def test_root_installs_only_what_is_missing_and_says_so(self):
        system = self.system(user=0)
        system.install("build")
        (system.path / "installed" / "cmake").unlink()
        done = system.setup()
        self.assertEqual((done.returncode, done.stdout), (0, "Installing with apt: cmake\n"))
        update, install = system.calls.read_text().splitlines()
        self.assertTrue(update.startswith("apt-get update"))
        self.assertTrue(install.endswith(" cmake"))

    def test_nothing_missing_means_no_apt_no_root_and_no_word(self):
        system = self.system(user=1000)
        system.install("build")
        done = system.setup()
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertEqual(system.calls.read_text(), "")

    def test_stale_package_lists_are_tried_when_they_cannot_be_updated(self):
        system = self.system(user=0)
        system.script("apt-get", f'echo "$1" >> {system.calls}; [ "$1" != update ]')
        done = system.setup("docs")
        self.assertEqual(done.returncode, 0)
        self.assertEqual(system.calls.read_text(), "update\ninstall\n")

    def test_a_user_installs_through_sudo(self):
        system = self.system(user=1000)
        system.script("sudo", f'echo "sudo" >> {system.calls}; exec "$@"')
        self.assertEqual(system.setup("docs").returncode, 0)
        self.assertEqual([line.split()[0] for line in system.calls.read_text().splitlines()],
                         ["sudo", "apt-get", "sudo", "apt-get"])

    def test_a_user_without_sudo_is_told_whom_to_ask(self):
        done = self.system(user=1000).setup("docs")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no sudo; ask an administrator for: apt-get install doxygen", done.stderr)

    def test_without_apt_the_packages_are_listed(self):
        done = self.system(user=0, apt=False).setup("fuzz")
        self.assertEqual(done.returncode, 1)
        listed = [line.strip() for line in done.stderr.splitlines()[1:]]
        self.assertEqual(listed, sorted(package for group, package in PACKAGES if group == "fuzz"))

    def test_without_apt_but_with_cmake_the_build_may_try(self):
        system = self.system(user=0, apt=False)
        system.script("cmake", "")
        system.script("ninja", "")
        self.assertEqual(system.setup().returncode, 0)

    def test_an_unknown_group_is_refused(self):
        self.assertEqual(self.system(user=0).setup("nonsense").returncode, 2)


if __name__ == "__main__":
    unittest.main()
