#!/usr/bin/env bash
# app.sh --resume CKPT [options of app.py]: runs setup.sh, then the app in the browser, with an interpreter that has gradio
# (_app.sh).
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
source "$ROOT/scripts/_app.sh"

(($# == 0)) || check_options "$@"
if [[ " $* " != *" --help_all "* ]]; then
    resume="$(option_value --resume "" "$@")"
    [[ -n "$resume" ]] || fail "--resume CKPT is missing; pretrained_weights/demo.safetensors is one"
    needs_file --resume "$resume"
fi
"$ROOT/scripts/setup.sh"
app_environment || fail "gradio was not installed (pip's reason is above); once it is mended, run this again"
exec "$APP_PYTHON" "$ROOT/app.py" "$@"
