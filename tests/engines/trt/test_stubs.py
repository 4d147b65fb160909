"""TensorRT's signatures: ours are those of its bindings, the double has ours, and the wrapper is typed against all."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.trt.double import ALWAYS, MEMBERS, VERSIONS, Behaviour, tensorrt_double

ROOT = Path(__file__).parents[3]
OURS = ROOT / "stubs"
WRAPPER = "engines.trt"

# What a stub generator writes for a type that it could not name.
NOT_NAMED = "..."


def classes(folder: Path, version: str) -> dict[str, ast.ClassDef]:
    source = (folder / f"tensorrt-{version}" / "tensorrt" / "__init__.pyi").read_text()
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def members(owner: ast.ClassDef) -> Iterator[tuple[str, ast.stmt]]:
    for node in owner.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node


def same_type(ours: ast.expr | None, theirs: ast.expr | None) -> bool:
    if theirs is None or ast.unparse(theirs) == NOT_NAMED:
        return True
    return ours is not None and ast.unparse(ours) == ast.unparse(theirs)


def agree(ours: ast.stmt, theirs: ast.stmt) -> bool:
    """Whether one of their overloads, properties or attributes is ours; what a default is does not matter."""
    if isinstance(ours, ast.FunctionDef) and isinstance(theirs, ast.FunctionDef):
        our_arguments, their_arguments = ours.args.args, theirs.args.args
        return (
            [each.arg for each in our_arguments] == [each.arg for each in their_arguments]
            and len(ours.args.defaults) == len(theirs.args.defaults)
            and all(map(same_type, [a.annotation for a in our_arguments], [a.annotation for a in their_arguments]))
            and same_type(ours.returns, theirs.returns)
            and [ast.unparse(each) for each in ours.decorator_list if "overload" not in ast.unparse(each)]
            == [ast.unparse(each) for each in theirs.decorator_list if "overload" not in ast.unparse(each)]
        )
    if isinstance(ours, ast.AnnAssign) and isinstance(theirs, ast.AnnAssign):
        return same_type(ours.annotation, theirs.annotation)
    if isinstance(ours, ast.ClassDef) and isinstance(theirs, ast.ClassDef):
        known = dict(members(theirs))
        return all(name in known and agree(node, known[name]) for name, node in members(ours))
    return False


@pytest.mark.parametrize("version", VERSIONS)
def test_our_signatures_are_those_of_the_bindings(version: str, full_stubs: Path) -> None:
    theirs = classes(full_stubs, version)
    for name, owner in classes(OURS, version).items():
        assert name in theirs, name
        known = list(members(theirs[name]))
        for member, node in members(owner):
            candidates = [each for other, each in known if other == member]
            assert any(agree(node, each) for each in candidates), f"{name}.{member} is not as in the bindings"


def test_a_wrong_signature_would_be_seen() -> None:
    theirs = ast.parse("def f(self, name: str, shape: Dims=...) -> bool: ...").body[0]
    for wrong in (
        "def f(self, name: str, shape: Dims) -> bool: ...",
        "def f(self, name: str, size: Dims=...) -> bool: ...",
        "def f(self, name: str, shape: list[int]=...) -> bool: ...",
        "def f(self, name: str, shape: Dims=...) -> None: ...",
        "@property\ndef f(self, name: str, shape: Dims=...) -> bool: ...",
        "f: bool",
    ):
        assert not agree(ast.parse(wrong).body[0], theirs), wrong
    assert agree(ast.parse("def f(self, name: str, shape: Dims=None) -> bool: ...").body[0], theirs)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_has_the_signatures_of_the_stubs(version: str) -> None:
    double = tensorrt_double(version, Behaviour())
    stubs = classes(OURS, version)
    for name in {name for name in vars(double) if name[0].isupper()} - set(ALWAYS) - set(MEMBERS[version]):
        known = list(members(stubs[name]))
        for member, value in vars(getattr(double, name)).items():
            if not inspect.isfunction(value) or (
                member.startswith("_") and not (member == "__init__" and made_by_us(name))
            ):
                continue
            offered = [each for other, each in known if other == member and isinstance(each, ast.FunctionDef)]
            parameters = list(inspect.signature(value).parameters)
            assert any(takes(each, parameters) for each in offered), f"{version}: {name}.{member} takes {parameters}"


def made_by_us(name: str) -> bool:
    """Whether the wrapper makes objects of a class; TensorRT makes the others itself."""
    return name in ("Builder", "OnnxParser", "Runtime", "ILogger", "IProgressMonitor")


def takes(signature: ast.FunctionDef, parameters: list[str]) -> bool:
    """Whether a signature can be called with exactly these parameters."""
    names = [each.arg for each in signature.args.args]
    required = len(names) - len(signature.args.defaults)
    return names[: len(parameters)] == parameters and len(parameters) >= required


@pytest.mark.parametrize("version", VERSIONS)
def test_the_double_has_the_enumerations_of_the_bindings(version: str, full_stubs: Path) -> None:
    theirs = classes(full_stubs, version)
    for name, known in {**ALWAYS, **MEMBERS[version]}.items():
        assert set(known) <= {member for member, _ in members(theirs[name])}, f"{version}: {name}"
    flags = {member for member, _ in members(theirs["BuilderFlag"])}
    for flag in ("INT8", "FP16", "BF16"):
        assert (flag in flags) == (flag in MEMBERS[version]["BuilderFlag"]), f"{version}: {flag}"
    creation = {member for member, _ in members(theirs["NetworkDefinitionCreationFlag"])}
    for flag in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):
        assert (flag in creation) == (flag in MEMBERS[version]["NetworkDefinitionCreationFlag"]), f"{version}: {flag}"
    assert ("IProgressMonitor" in theirs) == hasattr(tensorrt_double(version, Behaviour()), "IProgressMonitor")


def typed(stubs: Path, target: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MYPYPATH": str(stubs)}
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), *target]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_wrapper_is_typed_against_the_whole_bindings(version: str, full_stubs: Path, tmp_path: Path) -> None:
    done = typed(full_stubs / f"tensorrt-{version}", ["-p", WRAPPER], tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_name_that_a_version_lacks_would_be_seen(tmp_path: Path) -> None:
    source = tmp_path / "probe.py"
    source.write_text("import tensorrt as trt\n\nmonitor: trt.IProgressMonitor\n")
    codes = {version: typed(OURS / f"tensorrt-{version}", [str(source)], tmp_path).returncode for version in VERSIONS}
    assert codes == {"8.6": 1, "10.16": 0, "11.4": 0}
