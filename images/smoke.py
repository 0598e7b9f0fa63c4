"""Check an image while it is built: it works as the user it will run as. Prints its packages.

smoke.py cpu|gpu
"""

import importlib.util
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path


def check(holds: bool, message: str) -> None:
    """End the build with a message if a condition does not hold."""
    if not holds:
        sys.exit(f"smoke.py: {message}")


def check_runtime(runtime: str) -> None:
    """The user, its writable folders, and what must not be in a final image."""
    check(
        os.getuid() != 0,
        f"the user must not be root, got uid {os.getuid()}. Set USER in the Dockerfile.",
    )
    for folder in (tempfile.gettempdir(), os.environ["HOME"], "/cache"):
        check(
            os.access(folder, os.W_OK),
            f"{folder} must be writable for uid {os.getuid()}, gid {os.getgid()}.",
        )
    check(
        not os.access(sys.prefix, os.W_OK),
        f"{sys.prefix} must not be writable for the runtime's user.",
    )
    compilers = [name for name in ("gcc", "g++", "cc", "clang", "make") if shutil.which(name)]
    wanted = ["gcc", "cc"] if runtime == "gpu" else []
    check(
        set(compilers) <= set(wanted),
        f"no compilers but {wanted} must be there, found {compilers}.",
    )


def check_bytecode() -> None:
    """Every module that compiles has its bytecode, which is not checked against its source."""
    folders = [Path(sysconfig.get_path(name)) for name in ("purelib", "stdlib")]
    sources = [source for folder in folders for source in folder.rglob("*.py")]
    kept = [source for source in sources if not {"test", "lib2to3"} & {*source.parts}]
    lacking = [source for source in kept if not has_bytecode(source) and compiles(source)]
    check(not lacking, f"all modules must have unchecked bytecode, {lacking[:3]} have none.")


def has_bytecode(source: Path) -> bool:
    """Whether there is bytecode of the kind `unchecked-hash` (PEP 552)."""
    cached = Path(importlib.util.cache_from_source(source))
    return cached.is_file() and cached.read_bytes()[4:8] == bytes([1, 0, 0, 0])


def compiles(source: Path) -> bool:
    """Whether a source is of this Python: some packages carry modules for later ones."""
    try:
        compile(source.read_bytes(), source, "exec")
    except SyntaxError:
        return False
    return True


def check_torch(runtime: str) -> None:
    """The wheel of the right build, and our objective on it."""
    import torch

    from dynamicpo.objective.dynamicpo import preference_losses

    built = torch.version.cuda
    check(
        (built is not None) == (runtime == "gpu"),
        f"torch must be a {runtime} build, got CUDA {built}.",
    )
    chosen, rejected = torch.zeros(2), torch.tensor([[-9.0, 1.0], [-9.0, -9.0]])
    result = preference_losses(chosen, rejected)
    check(
        bool(torch.isfinite(result.losses).all()),
        f"losses must be finite, got {result.losses.tolist()}.",
    )


def check_programs() -> None:
    """Programs that kfp's launcher and people call, and every module of ours."""
    import duckdb
    import evidently.presets  # noqa: F401
    import kfp
    import kfp.dsl.executor_main  # noqa: F401
    import transformers  # noqa: F401

    import dynamicpo
    import dynamicpo_components
    import dynamicpo_pipelines

    for package in (dynamicpo, dynamicpo_components, dynamicpo_pipelines):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    version = metadata.version("dynamicpo")
    output = subprocess.run(
        ["dynamicpo", "--version"], capture_output=True, text=True, check=True
    ).stdout
    check(version in output, f"dynamicpo --version must say {version}, got {output!r}.")
    check(bool(kfp.__version__), "kfp must be there.")
    check(duckdb.sql("select 6 * 7").fetchall() == [(42,)], "DuckDB must work.")
    subprocess.run(["sh", "-c", "command -v python3 mktemp >/dev/null"], check=True)


def main() -> None:
    """All checks, then `name==version` lines, sorted."""
    runtime = sys.argv[1]
    check_runtime(runtime)
    check_bytecode()
    check_torch(runtime)
    check_programs()
    names = {
        item.metadata["Name"].lower().replace("_", "-"): item.version
        for item in metadata.distributions()
    }
    sys.stdout.write("".join(f"{name}=={version}\n" for name, version in sorted(names.items())))
    sys.stderr.write(json.dumps({"runtime": runtime, "packages": len(names)}) + "\n")


if __name__ == "__main__":
    main()
