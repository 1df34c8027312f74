"""Compiles the contract with npm's solc, for the artifact that the package ships. Only this needs the repository.

`python -m ledger.compile --check` in the repository's root compiles only when the sources have changed since the
artifact was made, without `--check` in any case.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import solcx
from solcx.exceptions import SolcError

from ledger.errors import CompileError

CONTRACT = "FederatedLedger"
SOURCES = (f"contracts/{CONTRACT}.sol", f"contracts/interfaces/I{CONTRACT}.sol")
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
    standard = standard_input(project, SOURCES)
    compiled = compile_sources(project, standard)[SOURCES[0]][CONTRACT]
    return {
        "contract": CONTRACT,
        "compiler": compiler_version(project),
        "input_sha256": input_hash(standard),
        "abi": compiled["abi"],
        "bytecode": "0x" + compiled["evm"]["bytecode"]["object"],
        "runtime": "0x" + compiled["evm"]["deployedBytecode"]["object"],
    }


def is_current(project: Path, target: Path = ARTIFACT) -> bool:
    """Whether the artifact was made from the sources as they are."""
    try:
        found = json.loads(target.read_text()).get("input_sha256")
    except (OSError, ValueError, AttributeError):
        return False
    return bool(found == input_hash(standard_input(project, SOURCES)))


def write_artifact(project: Path, target: Path = ARTIFACT) -> None:
    """Compiles, and writes the artifact."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(build_artifact(project), indent=1, sort_keys=True) + "\n")


def main(arguments: list[str]) -> None:
    """Compiles in the working directory; exits with a message if that fails."""
    if arguments not in ([], ["--check"]):
        sys.exit(f"python -m ledger.compile knows --check only, not {' '.join(arguments)}")
    try:
        if not arguments or not is_current(Path.cwd()):
            write_artifact(Path.cwd())
    except CompileError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
