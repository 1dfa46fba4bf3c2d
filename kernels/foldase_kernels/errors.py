"""The exceptions of building, loading and starting compiled kernels. Standard library only."""

from __future__ import annotations

DOCTOR_HINT = "`python -m foldase_kernels doctor` says what this machine has and what is missing"
BUILD_HINT = "`python -m foldase_kernels build` compiles it"


class KernelError(Exception):
    """A compiled kernel cannot be built, found or loaded.

    Attributes:
        code: for programs, such as ``no_nvcc``, ``compiler_failed``, ``cache_unwritable``, ``lock_timeout``,
            ``no_library``, ``stale_library``, ``corrupted_library``, ``wrong_abi``.
        message: what is the matter, with paths; several lines where a compiler has spoken.
        hint: what to do about it.
    """

    def __init__(self, code: str, message: str, hint: str = DOCTOR_HINT) -> None:
        super().__init__(f"{code}: {message}; {hint}")
        self.code = code
        self.message = message
        self.hint = hint


class LaunchError(KernelError, RuntimeError):
    """A compiled kernel refused its arguments or could not be started; the message is the library's.

    Its code is ``refused_arguments`` or ``launch_failed``.
    """
