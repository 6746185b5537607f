"""Prepares the BLAS library that numba's ``np.dot`` calls (SciPy's OpenBLAS) for the learner's kernels."""

import ctypes
import sys
from functools import cache
from pathlib import Path

import scipy
import scipy.linalg  # pyright: ignore[reportUnusedImport]  # loads the library


@cache
def prepare_blas() -> str:
    """Let SciPy's OpenBLAS use one thread a call, in this process: the kernels already run on several threads.

    NumPy brings a library of its own, which is left as it is.

    Returns:
        The library's name for the processor, which decides its speed (on AVX-512 hardware ``SkylakeX`` or newer is
        about twice as fast as ``Haswell``; the environment variable OPENBLAS_CORETYPE overrides its choice).
    """
    root = Path(scipy.__file__).parent
    pattern = "*openblas*" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so*")
    for folder in (root.parent / "scipy.libs", root / ".dylibs"):
        for path in sorted(folder.glob(pattern)):
            library = ctypes.CDLL(str(path))
            if hasattr(library, "scipy_openblas_set_num_threads"):
                library.scipy_openblas_set_num_threads(1)
                library.scipy_openblas_get_corename.restype = ctypes.c_char_p
                return library.scipy_openblas_get_corename().decode()
    return "not OpenBLAS"
