"""Workflows and issue forms parse, and workflows name the versions that pyproject.toml claims."""

import re

import pytest
import yaml

from documents import ROOT

FILES = sorted((ROOT / ".github").rglob("*.yml"))
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def parsed(name):
    return yaml.safe_load((ROOT / ".github" / name).read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_parses(file):
    assert isinstance(yaml.safe_load(file.read_text()), dict)


def test_tests_run_on_the_oldest_and_the_newest_versions():
    claimed = re.findall(r"Python :: (3\.\d+)", PYPROJECT)
    (torch,) = re.findall(r'"torch>=([\d.]+)"', PYPROJECT)
    oldest, newest = parsed("workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert oldest == {"python": claimed[0], "torch": f"torch=={torch}.*"}
    assert newest == {"python": claimed[-1], "torch": "torch"}
    assert f'requires-python = ">={claimed[0]}"' in PYPROJECT


@pytest.mark.parametrize("name", ["tests", "docs", "release"])
def test_a_workflow_names_its_rights_and_every_job_has_steps(name):
    workflow = parsed(f"workflows/{name}.yml")
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"] and all({"uses", "run"} & set(step) for step in job["steps"])


def test_a_release_stores_no_token():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert "secrets." not in text
    assert parsed("workflows/release.yml")["jobs"]["publish"]["permissions"] == {
        "id-token": "write"
    }


@pytest.mark.parametrize("name", ["refused", "wrong-number"])
def test_an_issue_form_asks_for_what_is_needed(name):
    form = parsed(f"ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    fields = [field["id"] for field in form["body"]]
    assert len(fields) == len(set(fields)) and "versions" in fields
