#!/usr/bin/env bash
# app.sh --resume CKPT [options of app.py]: runs setup.sh, then the app in the browser.
# gradio needs another Pillow than requirements.txt has. So this script makes .venv-app with gradio; all other packages
# come from the environment of the other scripts. If that environment is your own and has gradio, it is used itself.
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

known_options "app.py opts.py util/options/inference.py util/options/precision.py" "$@"
resume="$(option_value --resume "" "$@")"
[[ -n "$resume" ]] || fail "--resume CKPT is missing; pretrained_weights/demo.safetensors is one"
needs_file --resume "$resume"
"$ROOT/scripts/setup.sh"
if ! "$PYTHON" -P -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("gradio") is None)'; then
    over="$ROOT/.venv-app"
    stamp="$over/installed"
    mapfile -t below < <("$PYTHON" -P -c 'import site; print(*site.getsitepackages(), sep="\n")')
    wanted="$("$PYTHON" -P -c 'import sys; print(sys.version)' && printf '%s\n' "${below[@]}" &&
        cat "$ROOT/requirements-app.txt")"
    if [[ ! -f "$stamp" || "$(<"$stamp")" != "$wanted" ]]; then
        echo "making .venv-app: gradio and what it needs, some 200 MB"
        rm -rf "$over"
        "$PYTHON" -m venv "$over"
        # Python searches the folders of a .pth file after the environment's own packages
        "$over/bin/python" -P -c 'import pathlib, site, sys
pathlib.Path(site.getsitepackages()[0], "below.pth").write_text("\n".join(sys.argv[1:]))' "${below[@]}"
        "$over/bin/python" -m pip install --disable-pip-version-check --requirement "$ROOT/requirements-app.txt" ||
            fail "gradio was not installed (pip's reason is above); once it is mended, run this again"
        echo "$wanted" >"$stamp"
    fi
    PYTHON="$over/bin/python"
fi
exec "$PYTHON" "$ROOT/app.py" "$@"
