# Sourced after _common.sh by the scripts that need gradio or a browser.

# app_environment: sets APP_PYTHON, an interpreter with gradio. gradio needs another Pillow than requirements.txt has, so it
# gets an environment of its own, .venv-app, made here where it is not current; all other packages come from the environment
# of the other scripts. If that environment is your own and has gradio, it is used itself. Fails where pip does.
app_environment() {
    local over="$ROOT/.venv-app" stamp="$ROOT/.venv-app/installed" below wanted
    APP_PYTHON="$PYTHON"
    if "$PYTHON" -P -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("gradio") is None)'; then return; fi
    APP_PYTHON="$over/bin/python"
    mapfile -t below < <("$PYTHON" -P -c 'import site; print(*site.getsitepackages(), sep="\n")')
    wanted="$("$PYTHON" -P -c 'import sys; print(sys.version)' && printf '%s\n' "${below[@]}" &&
        cat "$ROOT/requirements-app.txt")"
    if [[ -f "$stamp" && "$(<"$stamp")" == "$wanted" ]]; then return; fi
    echo "making .venv-app: gradio and what it needs, some 200 MB"
    rm -rf "$over"
    "$PYTHON" -m venv "$over" || return
    # Python searches the folders of a .pth file after the environment's own packages
    "$APP_PYTHON" -P -c 'import pathlib, site, sys
pathlib.Path(site.getsitepackages()[0], "below.pth").write_text("\n".join(sys.argv[1:]))' "${below[@]}" || return
    "$APP_PYTHON" -m pip install --disable-pip-version-check --requirement "$ROOT/requirements-app.txt" || return
    echo "$wanted" >"$stamp"
}

has_browser() {
    command -v chromedriver >/dev/null && command -v chromium chromium-browser google-chrome >/dev/null
}

# browser: installs Chromium and its driver where they are missing. Fails where they are missing still, with the reason and
# the mend in NO_BROWSER. GitHub's images of Ubuntu have Chrome and its driver (images/ubuntu/Ubuntu2404-Readme.md in
# github.com/actions/runner-images).
browser() {
    has_browser && return
    local packages=(chromium chromium-driver) mend
    mend="install it: sudo apt-get install ${packages[*]}"
    NO_BROWSER="a browser that can be driven, and only root on Debian can install one here; $mend"
    [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null || return
    echo "installing ${packages[*]}, some 500 MB"
    export DEBIAN_FRONTEND=noninteractive
    local patience=(-o Acquire::Retries=1 -o Acquire::http::Timeout=20) # a mirror that is down must not hold up the tests
    apt-get "${patience[@]}" -qq update || true # a list that is missing may be one that is not needed
    apt-get "${patience[@]}" -qq install --no-install-recommends --yes "${packages[@]}" >/dev/null || true
    NO_BROWSER="a browser that can be driven, which apt-get did not install (its reason is above); $mend"
    has_browser
}
