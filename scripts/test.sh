#!/usr/bin/env bash
# test.sh [--browser] [pytest arguments]: set-up, lint, format and all tests, on all cores (at most 8; -n 0: one test at a
# time). Paths are relative to the repository.
# --browser installs what the tests of the page need: gradio, in .venv-app, and, as root on Debian, Chromium with its driver.
# Where that is impossible it says so, and they are skipped, as without the option.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
source "$ROOT/scripts/_app.sh"

words=() with_browser="" lacking=()
warn() {
    local what
    for what in "${lacking[@]}"; do
        echo "$PROGRAM: warning: TESTS OF THE PAGE ARE SKIPPED: this machine lacks $what" >&2
    done
}
for word in "$@"; do
    if [[ "$word" == --browser ]]; then with_browser=1; else words+=("$word"); fi
done

"$ROOT/scripts/setup.sh" --dev
if [[ "$with_browser" ]]; then
    app_environment || lacking+=("gradio, which pip did not install (its reason is above)")
    browser || lacking+=("$NO_BROWSER")
    warn
fi
cd "$ROOT"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
trap warn EXIT # again, because it is far above by then
"$PYTHON" -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder "${words[@]}"
