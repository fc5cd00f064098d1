"""The numeric tests as other processors would run them: under limits of the instruction set, with one and two threads.

    python tests/portable.py            # every limit below what the processor has, with one and with two threads
    python tests/portable.py --quick    # methods and their conformance under the two lowest limits, on a thread each

Kernels that are chosen by the processor differ in the last digits of a sum; a test that fails under one of them hangs
on such digits. What else is given goes to pytest. The exit code is not 0 where one of the runs fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
LIMITS = {
    "DEFAULT": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "AVX512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"},
}
"""What limits oneDNN, PyTorch's own kernels and MKL, by PyTorch's name of the instruction set, lowest first."""
QUICK = [
    f"tests/test_{name}.py"
    for name in (
        "conformance", "controls", "deepscm", "diffscm", "diffscm_cfg", "diffusion", "flowmatching", "flowscm",
        "hvae", "samplers",
    )
]  # fmt: skip
"""What the quick run asks about: methods, in which small differences grow."""


def limits() -> list[str]:
    """The limits that mean something on this processor; none on one of another family."""
    own = torch.backends.cpu.get_cpu_capability()
    names = list(LIMITS)
    return names[: names.index(own) + 1] if own in names else []


def run(limit: str, threads: int, args: list[str]) -> int:
    """Pytest's exit code under a limit, its output printed when it is done."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "portable and not slow", *args]
    env = {**os.environ, **LIMITS[limit], "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(f"--- {limit}, {threads} thread{'s' * (threads > 1)}\n{done.stdout}", flush=True)
    return done.returncode


def main(args: list[str]) -> int:
    quick = "--quick" in args
    args = [a for a in args if a != "--quick"]
    if quick:
        plan, at_once = [(limit, 1) for limit in limits()[:2]], 2
        args = [*QUICK, *args]
    else:
        plan, at_once = [(limit, threads) for threads in (1, 2) for limit in limits()], 1
    with ThreadPoolExecutor(at_once) as pool:
        return max(pool.map(lambda case: run(*case, args), plan), default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
