"""What is installed: the lock with hashes, and the targets that use it."""

import re
import subprocess
from importlib.metadata import PackageNotFoundError, requires

import pytest
from conftest import ROOT
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = ROOT / "requirements.lock"
PIN = re.compile(r"^([\w.-]+)==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$", re.M)
# The platform of the lock; hashes of wheels belong to one.
PLATFORM = {
    **default_environment(), "sys_platform": "linux", "platform_system": "Linux",
    "platform_machine": "x86_64", "os_name": "posix", "python_version": "3.11",
    "python_full_version": "3.11.7", "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
}  # fmt: skip


def plain(name):
    lines = (ROOT / name).read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def locked():
    """Return {name: version} of the lock, every line of which is understood."""
    text = LOCK.read_text()
    found = {canonicalize_name(name): v for name, v, _ in PIN.findall(text)}
    rest = PIN.sub("", text).splitlines()
    assert not [line for line in rest if line and not line.startswith("#")]
    return found


def missing(lock):
    """Return what the locked packages require on their platform and a lock has not."""
    faults, seen = set(), set()
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    todo = [Requirement(line) for line in lines if line and not line.startswith("#")]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if name not in lock or not wanted.specifier.contains(lock[name], True):
            faults.add(name)
        try:
            needs = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue  # of another platform
        for extra in {"", *wanted.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            here = {**PLATFORM, "extra": extra}
            todo += [r for r in needs if not r.marker or r.marker.evaluate(here)]
    return faults


def test_the_lock_has_the_constraints_with_hashes_and_what_one_platform_adds():
    lock, constraints = locked(), plain("constraints.txt")
    assert constraints.items() <= lock.items()
    added = [name for name in lock if name not in constraints]
    others = r"nvidia-|cuda-|triton$|setuptools$|wheel$"
    assert not [name for name in added if not re.match(others, name)]
    assert "triton" in added
    assert {"setuptools", "wheel"} < constraints.keys()
    head = LOCK.read_text().splitlines()[1]
    assert "Linux x86-64 with Python 3.11" in head


def test_the_lock_has_all_that_its_packages_require():
    lock = locked()
    assert missing(lock) == set()
    # The control: a lock without one of them, or with an old one, is noticed.
    assert missing({k: v for k, v in lock.items() if k != "jinja2"}) == {"jinja2"}
    assert missing({**lock, "soupsieve": "0.1"}) == {"soupsieve"}


def test_the_tools_are_pinned_and_not_part_of_the_environment():
    tools = plain("requirements-audit.txt")
    assert {"uv", "pip-audit", "cyclonedx-bom"} == tools.keys()
    assert not tools.keys() & locked().keys()


def steps(*goals):
    """Return what make would do for some goals from the beginning."""
    command = ["make", "--dry-run", "--always-make", *goals]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\\\n", "")


def test_a_locked_environment_takes_nothing_without_a_hash():
    found = steps("venv", "LOCKED=1")
    installs = [line for line in found.splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes --only-binary :all:" in installs[0]
    # The module itself is built with the setuptools of the lock, not with the newest.
    assert "--no-deps --no-build-isolation" in installs[1]
    assert "venv --clear" in found


def test_the_default_is_not_locked():
    found = steps("book")
    assert "requirements.lock" not in found
    assert "-r requirements.txt -c constraints.txt" in found


@pytest.mark.parametrize(
    ("goal", "option"), [("audit", "pip-audit --strict"), ("sbom", "--validate")]
)
def test_what_could_not_be_checked_fails(goal, option):
    """Without --strict an unreachable service reads as 'no vulnerabilities'."""
    assert option in steps(goal)
