"""The scripts that test and that serve the page, run with an interpreter that only writes down how it was called."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sandbox import Call, Sandbox


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


class TestTests:
    PYTEST = [
        "-m",
        "pytest",
        "--numprocesses",
        "auto",
        "--maxprocesses",
        "8",
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
    ]
    CHECKS = (["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."], PYTEST)

    def test_set_up_lint_format_tests(self, sandbox, tmp_path):
        sandbox.run("test.sh", cwd=tmp_path)
        calls = sandbox.calls()
        assert calls[0].args[:2] == ["-m", "venv"] and "requirements-dev.txt" in calls[1].args[-1]
        assert [(call.args, call.cwd) for call in calls[2:]] == [(args, str(sandbox.root)) for args in self.CHECKS]

    def test_arguments_are_those_of_pytest(self, sandbox):
        sandbox.run("test.sh", "-k", "two words", PYTHON=sandbox.python)
        assert sandbox.calls()[-1].args == [*self.PYTEST, "-k", "two words"]

    @pytest.mark.parametrize("number", range(3))
    def test_a_failure_ends_it(self, sandbox, number):
        sandbox.run("test.sh", PYTHON=sandbox.python, FAIL=" ".join(self.CHECKS[number]), code=3)
        assert [call.args for call in sandbox.calls()] == list(self.CHECKS[: number + 1])


@pytest.fixture(scope="session")
def no_browser(tmp_path_factory) -> Path:
    """A folder with the system's programs, but for browsers, apt-get, and the one that tells who asks."""
    folder = tmp_path_factory.mktemp("programs")
    for path in Path("/usr/bin").iterdir():
        if not path.name.startswith(("chrom", "google-chrome", "apt-get", "id")):
            (folder / path.name).symlink_to(path)
    return folder


class TestBrowser:
    SKIPPED = "test.sh: warning: TESTS OF THE PAGE ARE SKIPPED: this machine lacks "

    @pytest.fixture(autouse=True)
    def machine(self, sandbox, no_browser):
        """Debian without a browser and gradio, as seen by root."""
        self.bin = Path(sandbox.python).parent
        sandbox.env["PATH"] = f"{self.bin}:{no_browser}"
        sandbox.interpreter(self.bin / "apt-get")
        self.user(sandbox, 0)
        (sandbox.root / "requirements-app.txt").write_text("gradio==1.0\n")

    def user(self, sandbox, number: int) -> None:
        sandbox.interpreter(self.bin / "id").write_text(f"#!/bin/bash\necho {number}\n")

    def run(self, sandbox, *arguments: str, script: str = "test.sh", code: int = 0, **env: object) -> tuple[list, str]:
        """The calls of pip and apt-get, and what was said."""
        said = sandbox.run(script, *arguments, PYTHON=sandbox.python, code=code, **{"FAIL": "find_spec"} | env)
        calls = [call.args for call in sandbox.calls()]
        assert calls[-1][: len(TestTests.PYTEST)] == TestTests.PYTEST and "--browser" not in calls[-1]
        return [args for args in calls if "install" in args or args[-1] == "update"], said

    @pytest.mark.parametrize("script", ["test.sh", ".ci/run"])
    def test_root_gets_it_once(self, sandbox, script):
        words = ["-k", "a", "--browser"] if script == "test.sh" else []
        (pip, update, install), said = self.run(sandbox, *words, script=script)
        assert pip[-1].endswith("requirements-app.txt") and update[-1] == "update"
        assert install[-2:] == ["chromium", "chromium-driver"] and "--yes" in install and "SKIPPED" not in said
        assert self.run(sandbox, *words, script=script)[0] == []

    def test_without_the_option_nothing_is_looked_for(self, sandbox):
        installed, said = self.run(sandbox)
        assert installed == [] and "SKIPPED" not in said

    def test_who_is_not_root_is_told_how(self, sandbox):
        self.user(sandbox, 1000)
        installed, said = self.run(sandbox, "--browser")
        assert len(installed) == 1 and said.count(f"{self.SKIPPED}a browser") == 2
        assert "install it: sudo apt-get install chromium chromium-driver\n" in said

    def test_a_machine_without_apt(self, sandbox):
        (self.bin / "apt-get").unlink()
        assert "only root on Debian can install one here" in self.run(sandbox, "--browser")[1]

    @pytest.mark.parametrize(("failing", "lacks"), [("chromium", "a browser"), ("requirements-app.txt", "gradio")])
    def test_a_mirror_that_is_down_is_loud_and_no_failure(self, sandbox, failing, lacks):
        _, said = self.run(sandbox, "--browser", FAIL=f"find_spec|{failing}")
        assert said.count(f"{self.SKIPPED}{lacks}") == 2 and said.count("SKIPPED") == 2

    @pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
    def test_a_browser_that_is_there_serves(self, sandbox, name):
        for program in (name, "chromedriver"):
            sandbox.interpreter(self.bin / program)
        self.user(sandbox, 1000)
        assert "SKIPPED" not in self.run(sandbox, "--browser")[1]


class TestApp:
    LACKING = dict(FAIL="find_spec")  # of the look for gradio

    @pytest.fixture(autouse=True)
    def requirements(self, sandbox):
        (sandbox.root / "requirements-app.txt").write_text("gradio==1.0\n")
        (sandbox.root / "a b").touch()

    @staticmethod
    def started(sandbox, call: Call) -> bool:
        return call.args == [f"{sandbox.root}/app.py", "--resume", "a b"]

    def test_gradio_gets_an_environment_of_its_own_once(self, sandbox):
        sandbox.run("app.sh", "--resume", "a b", PYTHON=sandbox.python, **self.LACKING)
        venv, install, app = sandbox.calls()
        assert venv.args == ["-m", "venv", f"{sandbox.root}/.venv-app"] and self.started(sandbox, app)
        assert install.args[:3] == ["-m", "pip", "install"] and install.args[-1].endswith("/requirements-app.txt")
        assert not sandbox.venv.exists()
        sandbox.run("app.sh", "--resume", "a b", PYTHON=sandbox.python, **self.LACKING)
        (app,) = sandbox.calls()
        assert self.started(sandbox, app)
        (sandbox.root / "requirements-app.txt").write_text("gradio==1.1\n")
        sandbox.run("app.sh", "--resume", "a b", PYTHON=sandbox.python, **self.LACKING)
        assert len(sandbox.calls()) == 3

    def test_an_environment_with_gradio_serves_as_it_is(self, sandbox):
        sandbox.run("app.sh", "--resume", "a b", PYTHON=sandbox.python)
        (app,) = sandbox.calls()
        assert self.started(sandbox, app)

    def test_set_up_comes_first(self, sandbox):
        sandbox.run("app.sh", "--resume", "a b")
        assert [call.args[1] for call in sandbox.calls()[:2]] == ["venv", "pip"] and sandbox.venv.exists()
