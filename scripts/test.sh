#!/usr/bin/env bash
# test.sh [--browser] [pytest arguments]: set-up, lint, format and all tests, on all cores (at most 8; -n 0: one test at a
# time). Paths are relative to the repository.
# --browser installs what the tests of the page need: gradio, in .venv-app, and Chromium with its driver, as root on Debian.
# Where that is impossible it says so, and these tests are skipped, as they are without the option where something is missing.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
source "$ROOT/scripts/_app.sh"

words=() with_browser="" lacking=()
for word in "$@"; do
    if [[ "$word" == --browser ]]; then with_browser=1; else words+=("$word"); fi
done

"$ROOT/scripts/setup.sh" --dev
if [[ "$with_browser" ]]; then
    app_environment || lacking+=("gradio, which pip did not install (its reason is above)")
    browser || lacking+=("$NO_BROWSER")
fi
cd "$ROOT"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder "${words[@]}"
for what in "${lacking[@]}"; do
    echo "$PROGRAM: warning: THE TESTS OF THE PAGE WERE SKIPPED: this machine lacks $what" >&2
done
