"""What a record says of the code: its commit, and what has changed since."""

import subprocess

import pytest

from sparsemat.experiments import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a package of two files, and a function that runs git in it."""

    def git(*command):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, capture_output=True)

    (tmp_path / "package").mkdir()
    for name in ("__init__.py", "other.py"):
        (tmp_path / "package" / name).write_text("first = 1\n")
    git("init", "-q")
    git("config", "user.email", "a@b")
    git("config", "user.name", "a")
    git("add", ".")
    git("commit", "-q", "-m", "First")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "package")
    return tmp_path, git


def test_the_commit_says_whether_the_package_was_changed(checkout):
    folder, git = checkout
    clean = provenance.commit()
    assert len(clean) == 40
    (folder / "beside.txt").write_text("not the package's")
    git("add", "beside.txt")
    assert provenance.commit() == clean
    (folder / "package/other.py").write_text("second = 2\n")
    assert provenance.commit() == clean + provenance.DIRTY


def test_files_that_changed_since_a_commit_are_named(checkout):
    folder, git = checkout
    first = provenance.commit()
    assert provenance.changed_since(first) == []
    (folder / "package/other.py").write_text("second = 2\n")
    assert provenance.changed_since(first) == ["other.py"]
    (folder / "package/new.py").write_text("third = 3\n")
    git("add", ".")
    git("commit", "-q", "-m", "Second")
    assert provenance.changed_since(first + provenance.DIRTY) == ["new.py", "other.py"]
    assert provenance.changed_since(provenance.commit()) == []


@pytest.mark.parametrize("commit", [None, "0" * 40], ids=["none", "not in the history"])
def test_without_the_commit_nothing_is_said(checkout, commit):
    assert provenance.changed_since(commit) is None


def test_a_copy_outside_a_checkout_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    assert provenance.commit() is None
