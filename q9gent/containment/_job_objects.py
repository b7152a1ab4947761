"""The system calls behind ``windows``: Job Objects, suspended processes, consoles.

What Python's ``_winapi`` offers is used as it is, the rest is called through ctypes. Nothing here
waits, and nothing knows trio. Failures are ``OSError``, as Windows words them.
"""

from __future__ import annotations

import _winapi
import contextlib
import ctypes
import functools
import os
import subprocess
import sys
from ctypes import wintypes
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

assert sys.platform == "win32"

KILLED_EXIT_CODE = 1
"""The exit status of what is killed, the same as ``TerminateProcess`` has in Python."""

_ABORT_MILLISECONDS = 10_000
_CREATE_SUSPENDED = 0x4
_CTRL_BREAK_EVENT = 1
_FAILED = 0xFFFFFFFF  # of ResumeThread
_ERROR_MORE_DATA = 234
_LONGEST_PATH = 32_768
_PROCESS_QUERY_LIMITED_INFORMATION = 0x1000
_BASIC_ACCOUNTING, _BASIC_PROCESS_ID_LIST, _EXTENDED_LIMITS = 1, 3, 9  # JOBOBJECTINFOCLASS
_KILL_ON_JOB_CLOSE = 0x2000  # without any _BREAKAWAY_OK beside it, nothing leaves the job


class _BasicLimits(ctypes.Structure):
    _fields_ = [
        ("per_process_user_time_limit", ctypes.c_int64),
        ("per_job_user_time_limit", ctypes.c_int64),
        ("limit_flags", wintypes.DWORD),
        ("minimum_working_set_size", ctypes.c_size_t),
        ("maximum_working_set_size", ctypes.c_size_t),
        ("active_process_limit", wintypes.DWORD),
        ("affinity", ctypes.c_size_t),
        ("priority_class", wintypes.DWORD),
        ("scheduling_class", wintypes.DWORD),
    ]


class _ExtendedLimits(ctypes.Structure):
    _fields_ = [
        ("basic", _BasicLimits),
        ("io_counters", ctypes.c_uint64 * 6),
        ("memory", ctypes.c_size_t * 4),
    ]


class _Accounting(ctypes.Structure):
    _fields_ = [
        ("times", ctypes.c_int64 * 4),
        ("page_faults", wintypes.DWORD),
        ("total_processes", wintypes.DWORD),
        ("active_processes", wintypes.DWORD),
        ("terminated_processes", wintypes.DWORD),
    ]


_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)


def declare(name: str, result: Any, *arguments: Any) -> Any:  # noqa: ANN401 - ctypes has no other
    """Return a function of kernel32 with its types."""
    function = getattr(_kernel32, name)
    function.restype, function.argtypes = result, arguments
    return function


_H, _D, _B, _P = wintypes.HANDLE, wintypes.DWORD, wintypes.BOOL, wintypes.LPVOID
_create_job = declare("CreateJobObjectW", _H, _P, wintypes.LPCWSTR)
_set_information = declare("SetInformationJobObject", _B, _H, ctypes.c_int, _P, _D)
_query_information = declare("QueryInformationJobObject", _B, _H, ctypes.c_int, _P, _D, _P)
_assign_process = declare("AssignProcessToJobObject", _B, _H, _H)
_terminate_job = declare("TerminateJobObject", _B, _H, wintypes.UINT)
_resume_thread = declare("ResumeThread", _D, _H)
_query_image_name = declare("QueryFullProcessImageNameW", _B, _H, _D, wintypes.LPWSTR, _P)
_get_system_directory = declare("GetSystemDirectoryW", wintypes.UINT, wintypes.LPWSTR, wintypes.UINT)
_get_console_code_page = declare("GetConsoleCP", wintypes.UINT)
_generate_console_event = declare("GenerateConsoleCtrlEvent", _B, _D, _D)


def check(succeeded: int) -> None:
    """Raise ``OSError`` for the last call unless it succeeded."""
    if not succeeded:
        raise ctypes.WinError(ctypes.get_last_error())


class Counts(NamedTuple):
    """How many processes a job has had, and how many of them live."""

    total: int
    active: int


class Job:
    """A Job Object whose processes cannot leave it and die when its handle is closed.

    The handle is not inherited and never shared: also the end of this process closes it.
    """

    def __init__(self) -> None:
        self._handle: int = _create_job(None, None) or 0
        check(self._handle)
        limits = _ExtendedLimits()
        limits.basic.limit_flags = _KILL_ON_JOB_CLOSE
        try:
            size = ctypes.sizeof(limits)
            check(_set_information(self._handle, _EXTENDED_LIMITS, ctypes.byref(limits), size))
        except OSError:
            self.close()
            raise

    def assign(self, process_handle: int) -> None:
        """Put a process into the job, and with it everything that it will start."""
        check(_assign_process(self._handle, process_handle))

    def terminate(self) -> bool:
        """Kill every process that is in the job now; false if the system refused."""
        return bool(_terminate_job(self._handle, KILLED_EXIT_CODE))

    def counts(self) -> Counts:
        """Return how many processes there were and are."""
        told = _Accounting()
        size = ctypes.sizeof(told)
        check(_query_information(self._handle, _BASIC_ACCOUNTING, ctypes.byref(told), size, None))
        return Counts(told.total_processes, told.active_processes)

    def pids(self, room: int = 64) -> tuple[int, ...]:
        """Return the pids of those that live.

        Args:
            room: For how many the first attempt has room; it grows until all fit.
        """
        while True:

            class ProcessIdList(ctypes.Structure):
                _fields_ = [
                    ("assigned", wintypes.DWORD),
                    ("listed", wintypes.DWORD),
                    ("pids", ctypes.c_size_t * room),
                ]

            told = ProcessIdList()
            size = ctypes.sizeof(told)
            if _query_information(self._handle, _BASIC_PROCESS_ID_LIST, ctypes.byref(told), size, None):
                return tuple(sorted(told.pids[: told.listed]))
            if ctypes.get_last_error() != _ERROR_MORE_DATA:
                check(0)
            room = max(room * 2, told.assigned)

    def members(self) -> tuple[int, ...]:
        """Return the pids of those that live and were started by somebody inside.

        Windows adds a host for a hidden console, which goes by itself a moment after its last client.
        """
        return tuple(pid for pid in self.pids() if not _is_console_host(pid))

    def close(self) -> None:
        """Close the handle, which kills what still lives."""
        if self._handle:
            _winapi.CloseHandle(self._handle)
            self._handle = 0


def _is_console_host(pid: int) -> bool:
    try:
        process = _winapi.OpenProcess(_PROCESS_QUERY_LIMITED_INFORMATION, False, pid)
    except OSError:
        return False
    name = ctypes.create_unicode_buffer(_LONGEST_PATH)
    length = wintypes.DWORD(_LONGEST_PATH)
    found = _query_image_name(process, 0, name, ctypes.byref(length))
    _winapi.CloseHandle(process)
    return bool(found) and name.value.lower() == _console_host_path()


@functools.cache
def _console_host_path() -> str:
    folder = ctypes.create_unicode_buffer(_LONGEST_PATH)
    check(_get_system_directory(folder, _LONGEST_PATH))
    return os.path.join(folder.value, "conhost.exe").lower()


@functools.cache
def confine_this_process() -> Job:
    """Put this process into a job of its own, once, so that whatever it starts dies with it.

    The job is kept for ever: closing it would end this process.

    Raises:
        OSError: It is in a job that does not allow another inside.
    """
    job = Job()
    try:
        job.assign(_winapi.GetCurrentProcess())
    except OSError:
        job.close()
        raise
    return job


def spawn(
    job: Job,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    creation_flags: int,
) -> tuple[int, int]:
    """Start a program inside a job; it inherits the three handles and nothing else.

    It does not run before it is in the job. If it cannot be put there, it is killed.

    Returns:
        The process's handle, for the caller to close, and its pid.

    Raises:
        OSError: The system refused.
        ValueError: There is a NUL in an argument.
    """
    process, thread, pid = _create_suspended(argv, environment, [stdin, stdout, stderr], creation_flags)
    try:
        job.assign(process)
        check(_resume_thread(thread) != _FAILED)
    except BaseException:
        with contextlib.suppress(OSError):  # it can only fail for one that is dead
            _winapi.TerminateProcess(process, KILLED_EXIT_CODE)
            _winapi.WaitForSingleObject(process, _ABORT_MILLISECONDS)
        _winapi.CloseHandle(process)
        raise
    finally:
        _winapi.CloseHandle(thread)
    return process, pid


def _create_suspended(
    argv: Sequence[str], environment: Mapping[str, str], handles: list[int], creation_flags: int
) -> tuple[int, int, int]:
    """Return the handles of a new process and of its only thread, and its pid."""
    for handle in handles:
        os.set_handle_inheritable(handle, True)
    stdin, stdout, stderr = handles
    startup = subprocess.STARTUPINFO(
        dwFlags=_winapi.STARTF_USESTDHANDLES,
        hStdInput=stdin,
        hStdOutput=stdout,
        hStdError=stderr,
        lpAttributeList={"handle_list": handles},
    )
    process, thread, pid, _thread_id = _winapi.CreateProcess(
        argv[0],
        subprocess.list2cmdline(argv),
        None,
        None,
        True,  # inherit, of all handles, those listed
        creation_flags | _CREATE_SUSPENDED,
        dict(environment),
        None,
        startup,
    )
    return process, thread, pid


def has_console() -> bool:
    """Tell whether this process has a console, through which it could ask its children to end."""
    return bool(_get_console_code_page())


def ask_to_end(pid: int) -> bool:
    """Send CTRL_BREAK to a process group on this process's console; false if it cannot be sent.

    ``os.kill`` would not do: where the event cannot be sent, it may kill, or raise SystemError.
    """
    return bool(_generate_console_event(_CTRL_BREAK_EVENT, pid))
