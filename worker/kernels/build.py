"""The only place that compiles the kernels, with torch's own extension tools."""

import argparse
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from worker.kernels import NEEDED, NO_VNNI, processor_flags
from worker.kernels.sources import BUILT, FLAGS, HERE, UNITS, library

AGAIN = " then run .venv/bin/python -m worker.kernels.build."


def missing() -> str | None:
    """What compiling lacks here, as a sentence; None if nothing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "The kernels are for Linux on x86-64."
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return f"There is no C++ compiler named {compiler}; install g++ to have the kernels,{AGAIN}"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return f"Python.h is missing; install python3-dev to have the kernels,{AGAIN}"
    return None


def compile_kernels() -> str | None:
    """Compile into `library()`; what other sources left there goes. A sentence if the compiler cannot."""
    from setuptools import Distribution  # type: ignore[import-untyped]
    from setuptools.errors import CompileError, LinkError  # type: ignore[import-untyped]
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    units = [str(HERE / unit) for unit in UNITS]
    # torch leaves these two untyped
    extension = CppExtension("step", units, extra_compile_args=list(FLAGS))  # type: ignore[no-untyped-call]
    tools = BuildExtension.with_options(use_ninja=False, no_python_abi_suffix=True)  # type: ignore[no-untyped-call]
    command = tools(Distribution({"name": "step", "ext_modules": [extension]}))
    with tempfile.TemporaryDirectory(prefix="penstock-kernels-") as scratch:
        command.build_lib = command.build_temp = scratch
        command.ensure_finalized()
        try:
            command.run()
        except (CompileError, LinkError) as error:
            return f"The compiler could not compile the kernels ({error}); g++ 11 or newer can."
        shutil.rmtree(BUILT, ignore_errors=True)
        library().parent.mkdir(parents=True)
        shutil.copy2(Path(scratch, "step.so"), library())
    return None


def main(arguments: list[str] | None = None) -> None:
    """Compile what is not compiled yet, or say why the torch path will serve."""
    parser = argparse.ArgumentParser(prog="python -m worker.kernels.build", description=__doc__)
    parser.add_argument(
        "--any-processor", action="store_true", help="the kernels will run on another machine"
    )
    options = parser.parse_args(arguments)
    if library().exists():
        return
    reason = missing()
    if reason is None and not options.any_processor and not processor_flags() >= NEEDED:
        reason = NO_VNNI
    if reason is None:
        sys.stderr.write("compiling the kernels (once, about half a minute)\n")
        reason = compile_kernels()
    if reason is not None:
        sys.stderr.write(f"{reason} Generations run on torch's operators, slower.\n")


if __name__ == "__main__":
    main()
