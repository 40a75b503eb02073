"""No dependency is of a version with a known hole: what setup.py allows, what constraints.txt pins, what runs here."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[1]
#: As texts: 4.10 is not 4.1.
ADVISORIES = yaml.load((Path(__file__).parent / "advisories.yaml").read_text("utf-8"), Loader=yaml.BaseLoader)
SAFE = {package: max(Version(hole["safe"]) for hole in holes) for package, holes in ADVISORIES.items()}


@pytest.fixture(scope="module")
def required() -> dict[str, Requirement]:
    """What setup.py asks for, by name, as setuptools understands it."""
    script = ("import setuptools; setuptools.setup = lambda **said: print(*said['install_requires'], sep='\\n'); "
              "exec(compile(open('setup.py').read(), 'setup.py', 'exec'), {'__file__': 'setup.py'})")
    said = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, text=True, capture_output=True, check=True)
    return {canonicalize_name(one.name): one for one in map(Requirement, said.stdout.split("\n")[:-1])}


@pytest.mark.parametrize("package", SAFE)
def test_no_version_that_setup_allows_has_a_known_hole(required, package):
    least = [Version(part.version) for part in required[package].specifier if part.operator in (">=", "==")]
    assert least and max(least) >= SAFE[package], f"{required[package]} allows less than {SAFE[package]}"


@pytest.mark.parametrize("package", SAFE)
def test_the_pins_and_what_is_installed_are_safe(package):
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    pinned = {canonicalize_name(name): Version(version) for name, version in pins.items()}[package]
    assert pinned >= SAFE[package] and Version(metadata.version(package)) >= SAFE[package]


def test_every_hole_is_named():
    for package, holes in ADVISORIES.items():
        assert canonicalize_name(package) == package
        for hole in holes:
            assert hole.keys() == {"safe", "id", "what"} and hole["what"]
            assert re.fullmatch(r"CVE-\d{4}-\d{4,}", hole["id"])
