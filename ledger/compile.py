"""Compiles the contract with npm's solc, for the artifact that the package ships. Only this needs the repository.

Run `python -m ledger.compile` in the repository's root to write the artifact anew.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import solcx
from solcx.exceptions import SolcError

from ledger.errors import CompileError

CONTRACT = "FederatedLedger"
ARTIFACT = Path(__file__).parent / "artifacts" / f"{CONTRACT}.json"


def standard_input(project: Path, sources: tuple[str, ...]) -> dict[str, Any]:
    """The compiler's standard JSON input, with the settings that Hardhat uses too (contracts/compiler.json).

    Raises:
        CompileError: `project` does not hold the sources.

    """
    try:
        settings = json.loads((project / "contracts" / "compiler.json").read_text())["settings"]
        contents = {name: {"content": (project / name).read_text()} for name in sources}
    except OSError as error:
        raise CompileError(f"{error.filename} can't be read: compile in a checkout of the repository") from error
    outputs = ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]
    return {
        "language": "Solidity",
        "sources": contents,
        "settings": {**settings, "outputSelection": {"*": {"*": outputs}}},
    }


def input_hash(standard: dict[str, Any]) -> str:
    """SHA-256 of the compiler's input, in hexadecimal: an artifact with the same one needs no new compilation."""
    return hashlib.sha256(json.dumps(standard, sort_keys=True).encode()).hexdigest()


def compile_sources(project: Path, standard: dict[str, Any]) -> dict[str, Any]:
    """The compiler's `contracts`, by source and name; warnings are errors.

    Raises:
        CompileError: the compiler is missing, fails, or warns.

    """
    compiler = project / "scripts" / "solc.js"
    try:
        output = solcx.compile_standard(standard, solc_binary=str(compiler), base_path=str(project))
    except (SolcError, OSError, ValueError) as error:
        raise CompileError(f"{compiler} can't compile: {error}; run `npm ci --ignore-scripts` first") from error
    complaints = [one["formattedMessage"] for one in output.get("errors", [])]
    if complaints:
        raise CompileError(f"the compiler complains (warnings are errors): {complaints[0].strip()}")
    return dict(output["contracts"])


def compiler_version(project: Path) -> str:
    """The compiler's version, such as 0.8.37."""
    package = project / "node_modules" / "solc" / "package.json"
    try:
        return str(json.loads(package.read_text())["version"])
    except OSError as error:
        raise CompileError(f"{package} can't be read: run `npm ci --ignore-scripts` first") from error


def build_artifact(project: Path) -> dict[str, Any]:
    """The artifact as the package ships it: ABI, bytecode, runtime bytecode, input hash and compiler version."""
    standard = standard_input(project, (f"contracts/{CONTRACT}.sol", f"contracts/interfaces/I{CONTRACT}.sol"))
    compiled = compile_sources(project, standard)[f"contracts/{CONTRACT}.sol"][CONTRACT]
    return {
        "contract": CONTRACT,
        "compiler": compiler_version(project),
        "input_sha256": input_hash(standard),
        "abi": compiled["abi"],
        "bytecode": "0x" + compiled["evm"]["bytecode"]["object"],
        "runtime": "0x" + compiled["evm"]["deployedBytecode"]["object"],
    }


def write_artifact(project: Path, target: Path = ARTIFACT) -> Path:
    """Where the artifact is; compiles only when its input hash is not that of the sources."""
    standard = standard_input(project, (f"contracts/{CONTRACT}.sol", f"contracts/interfaces/I{CONTRACT}.sol"))
    if target.exists() and json.loads(target.read_text()).get("input_sha256") == input_hash(standard):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(build_artifact(project), indent=1, sort_keys=True) + "\n")
    return target


if __name__ == "__main__":
    write_artifact(Path.cwd())
