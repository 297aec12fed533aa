#!/usr/bin/env bash
# setup.sh [--dev]: makes .venv with the packages of requirements.txt (--dev: requirements-dev.txt) and prints which
# Python the scripts use; does nothing when .venv is current. In an environment of your own (an active virtual or conda
# environment, PYTHON=/path/to/python, or a .venv that you made) it installs nothing, and names the missing packages.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

case "$#,${1:-}" in
    0,) requirements=requirements.txt ;;
    1,--dev) requirements=requirements-dev.txt ;;
    *)
        echo "usage: $PROGRAM [--dev]" >&2
        exit 2
        ;;
esac

venv="$ROOT/.venv"
lock="$venv/setup.lock" # also marks a .venv that this script made; any other .venv is never changed
if [[ "$PYTHON" != "$venv/bin/python" || (-e "$venv/pyvenv.cfg" && ! -e "$lock") ]]; then
    version="$(version_of "$PYTHON")" || fail "$PYTHON does not run; leave or delete that environment, or mend it"
    recent "$version" || fail "$PYTHON is Python $version; 3.11 or newer is needed"
    missing="$("$PYTHON" -P - "$ROOT/requirements.txt" "$ROOT/$requirements" <<'PY'
import importlib.util
import re
import sys

modules = {"opencv-python-headless": "cv2", "pillow": "PIL", "pytest-xdist": "xdist"}
names = {name for path in sys.argv[1:] for name in re.findall(r"^[\w-]+(?===)", open(path).read(), re.MULTILINE)}
print(*sorted(name for name in names if importlib.util.find_spec(modules.get(name, name)) is None))
PY
)" || fail "$PYTHON cannot look for its packages (above)"
    [[ -z "$missing" ]] || fail "$PYTHON lacks packages; install them: $PYTHON -m pip install $missing"
    echo "Python $version: $PYTHON"
    exit
fi

# The stamp holds the Python version and the requirements of the last installation. Development packages come last, so
# the stamp of --dev begins with that of a set-up without --dev.
stamp="$venv/installed"
wanted() {
    echo "$version"
    cat "$ROOT/requirements.txt"
    [[ "$requirements" == requirements.txt ]] || cat "$ROOT/$requirements"
}
current() {
    version="$(version_of "$PYTHON")" && [[ -f "$stamp" && "$(<"$stamp")" == "$(wanted)"* ]]
}

if ! current; then
    mkdir -p "$venv" || fail "cannot write in $ROOT"
    exec 9>"$lock"
    if command -v flock >/dev/null && ! flock --nonblock 9; then
        echo "another set-up is at work; waiting for it"
        flock 9
    fi
fi
if ! current; then
    rm -f "$stamp"
    if ! recent "$version" || ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        base="$(recent_python)" || fail "Python 3.11 or newer is needed and not on the PATH (python3 is" \
            "$(version_of python3 || echo missing)); install one, or give it with PYTHON=/path/to/python"
        version="$(version_of "$base")"
        "$base" -c 'import ensurepip, venv' 2>/dev/null || fail "$base cannot make a virtual environment;" \
            "on Debian or Ubuntu: sudo apt install python${version%.*}-venv"
        echo "making .venv with Python $version"
        find "$venv/" -mindepth 1 -maxdepth 1 ! -name "${lock##*/}" -exec rm -rf {} +
        "$base" -m venv "$venv"
    fi
    echo "installing $requirements; some gigabytes the first time"
    "$PYTHON" -m pip install --disable-pip-version-check --requirement "$ROOT/$requirements" ||
        fail "the packages were not installed (pip's reason is above); once it is mended, run this again"
    wanted >"$stamp.new"
    mv "$stamp.new" "$stamp"
fi
echo "Python $version: $PYTHON"
