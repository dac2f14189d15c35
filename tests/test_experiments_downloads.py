"""Published files: checked, resumed, and a data folder that stays usable whatever happens."""

import errno
import gzip
import hashlib
import io
import os
import random
import re
import shutil
import tarfile
import tempfile
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from disk import room
from server import serving

from sparsemat.experiments import datasets
from sparsemat.experiments.__main__ import main
from sparsemat.experiments.datasets import PublishedFile, folder, unanswered

CONTENT = random.Random(0).randbytes(500_000) + bytes(300_000)  # many chunks, packed or not
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMAT_DATA", str(tmp_path / "data"))
    with serving() as server:
        yield server


def files_in_cache():
    """Everything in the data folder but its lock."""
    found = (path for path in folder().rglob("*") if path.is_file() and path.name != ".lock")
    return sorted(str(path.relative_to(folder())) for path in found)


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


PLAIN = {"path": "a/file.bin", "name": "file.bin", "served": CONTENT}
GZIPPED = {"path": "a/file.bin", "name": "file.bin.gz", "served": gzip.compress(CONTENT, mtime=0)}
ZIPPED = {
    "path": "set/file.bin",
    "name": "set.zip",
    "served": zipped({"set/file.bin": CONTENT, "set/other.txt": b"other"}),
}
FORMS = [
    pytest.param(PLAIN, id="plain"),
    pytest.param(GZIPPED, id="gzip"),
    pytest.param(ZIPPED, id="zip"),
]


def publish(server, form, sha256=SHA256, md5=True):
    """The form's file, served, with its true checksums."""
    server.files[form["name"]] = form["served"]
    return PublishedFile(
        path=form["path"],
        urls=(server.url(form["name"]),),
        sha256=sha256,
        md5=hashlib.md5(form["served"]).hexdigest() if md5 else None,
    )


def part_of(form):
    """Where an unfinished download of the form is kept."""
    return folder() / Path(form["path"]).parent / f"{form['name']}.part"


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_file_is_downloaded_once(server, form):
    file = publish(server, form)
    assert file.fetch().read_bytes() == CONTENT
    assert file.fetch() == folder() / form["path"]
    assert len(server.requests) == 1
    assert [name for name in files_in_cache() if name.endswith(".part")] == []


@pytest.mark.parametrize("form", FORMS)
def test_a_broken_download_goes_on_where_it_stopped(server, form):
    file = publish(server, form)
    server.stop_after, kept = 200_000, [0]
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=r"bytes are kept in .*\.part") as caught:
            file.fetch()
        kept.append(int(re.search(r"(\d+) bytes are kept", str(caught.value))[1]))
        assert files_in_cache() == [str(part_of(form).relative_to(folder()))]
        assert part_of(form).read_bytes() == form["served"][: kept[-1]]
    assert kept == sorted(set(kept))  # every attempt gets further
    server.stop_after = None
    assert file.fetch().read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [
        None,
        *(f"bytes={size}-" for size in kept[1:]),
    ]
    assert not part_of(form).exists()


def test_a_server_without_ranges_sends_all_of_it_again(server):
    file = publish(server, PLAIN)
    server.stop_after = 200_000
    with pytest.raises(FileNotFoundError, match="bytes are kept"):
        file.fetch()
    kept = part_of(PLAIN).stat().st_size
    server.ranges, server.stop_after = False, None
    assert file.fetch().read_bytes() == CONTENT
    assert kept > 0 and server.requests[-1][1] == f"bytes={kept}-"


def test_a_server_without_ranges_replaces_a_longer_rest(server):
    file = publish(server, PLAIN)
    part_of(PLAIN).parent.mkdir(parents=True)
    part_of(PLAIN).write_bytes(b"?" * 2 * len(CONTENT))
    server.ranges = False
    assert file.fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_download_that_was_never_unpacked_is_used(server, form):
    file = publish(server, form)
    part = part_of(form)
    part.parent.mkdir(parents=True)
    part.write_bytes(form["served"])  # killed between the last byte and the checksum
    assert file.fetch().read_bytes() == CONTENT
    assert not part.exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"of something else", id="short"),
        pytest.param(b"?" * 2 * len(CONTENT), id="longer-than-the-file"),
    ],
)
def test_a_foreign_rest_is_thrown_away(server, form, rest):
    file = publish(server, form)
    part = part_of(form)
    part.parent.mkdir(parents=True)
    part.write_bytes(rest)
    with pytest.raises(FileNotFoundError, match="must have the published md5"):
        file.fetch()
    assert files_in_cache() == []
    assert file.fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[: len(content) // 2], id="half"),
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:-1] + bytes([content[-1] ^ 1]), id="one-bit"),
        pytest.param(lambda content: content + b"!", id="one-byte-more"),
    ],
)
def test_a_damaged_release_leaves_nothing_behind(server, form, damage):
    file = publish(server, form)
    server.files[form["name"]] = damage(form["served"])
    with pytest.raises(FileNotFoundError, match=f"{form['path']} is missing.*published md5"):
        file.fetch()
    assert files_in_cache() == []
    server.files[form["name"]] = form["served"]
    assert file.fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("form", FORMS[1:])
def test_an_archive_without_a_checksum_must_be_whole(server, form):
    file = publish(server, form, sha256=None, md5=False)
    server.files[form["name"]] = form["served"][:-5]
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        file.fetch()
    assert files_in_cache() == []


@pytest.mark.parametrize("form", FORMS[:2])
def test_a_download_is_checked_against_the_kept_checksum_too(server, form):
    file = publish(server, form, sha256="0" * 64, md5=False)
    with pytest.raises(FileNotFoundError, match=f"must have the published sha256 {'0' * 64}"):
        file.fetch()
    assert files_in_cache() == []


def test_an_archive_must_hold_the_file(server):
    form = {**ZIPPED, "served": zipped({"set/other.txt": b"other"})}
    with pytest.raises(
        FileNotFoundError, match=r"must hold set/file.bin, it begins with \['set/other.txt'\]"
    ):
        publish(server, form).fetch()
    assert files_in_cache() == []


def test_an_archive_gives_all_its_files_and_keeps_those_that_are_there(server):
    kept = folder() / "set/other.txt"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"mine")
    publish(server, ZIPPED).fetch()
    assert kept.read_bytes() == b"mine"
    assert PublishedFile(path="set/other.txt").fetch() == kept
    assert len(server.requests) == 1


def test_a_zip_archive_gives_a_folder(server):
    form = {**ZIPPED, "path": "set"}
    path = publish(server, form, sha256=None).fetch()
    assert sorted(child.name for child in path.iterdir()) == ["file.bin", "other.txt"]


def test_a_second_address_helps(server):
    good = publish(server, PLAIN)
    file = PublishedFile(good.path, (server.url("gone"), *good.urls), good.sha256, good.md5)
    assert file.fetch().read_bytes() == CONTENT
    assert [name for name, _ in server.requests] == ["gone", "file.bin"]


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT[:-1] + b"?"])
def test_a_damaged_file_is_named_left_alone_and_replaced_when_deleted(server, content):
    file = publish(server, PLAIN)
    path = file.fetch()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} must have the published sha256 {SHA256}, got"):
        file.fetch()
    assert path.read_bytes() == content
    path.unlink()  # what the message says
    assert file.fetch().read_bytes() == CONTENT


def test_a_file_without_a_pinned_checksum_is_accepted_as_it_lies_there(server):
    file = publish(server, PLAIN, sha256=None)
    path = folder() / file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a part of the release")
    assert file.fetch().read_bytes() == b"a part of the release"
    assert server.requests == []


@pytest.mark.parametrize("urls", [(), ("http://127.0.0.1:9/file.bin",)], ids=["none", "refused"])
def test_what_cannot_be_had_says_where_to_put_it(server, urls):
    with pytest.raises(FileNotFoundError, match=r"file.bin is missing.*SPARSEMAT_DATA"):
        PublishedFile("file.bin", urls).fetch()
    assert files_in_cache() == []


@contextmanager
def unprivileged():
    """Without the superuser's right to write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_cannot_be_written_is_named(server, monkeypatch):
    import pooch  # noqa: F401  (before the rights are given up)
    import requests  # noqa: F401

    file = publish(server, PLAIN)
    base = tempfile.mkdtemp()
    try:
        Path(base).chmod(0o555)
        monkeypatch.setenv("SPARSEMAT_DATA", base)
        with unprivileged(), pytest.raises(PermissionError, match=f"{base}/{file.path}.*writable"):
            file.fetch()
        assert files_in_cache() == []
        Path(base).chmod(0o755)
        assert file.fetch().read_bytes() == CONTENT
        with unprivileged():  # reading needs no right to write
            assert file.fetch().read_bytes() == CONTENT
    finally:
        shutil.rmtree(base)


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_is_named_and_leaves_no_half_file(server, form):
    file = publish(server, form)
    with room(200), pytest.raises(OSError, match=f"{form['path']}.*have room") as caught:
        file.fetch()
    assert caught.value.errno == errno.EFBIG
    assert not (folder() / form["path"]).exists()
    assert file.fetch().read_bytes() == CONTENT
    assert not [name for name in files_in_cache() if name.endswith(".part")]


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_disk_that_fills_while_unpacking_leaves_no_half_file(server, form):
    file = publish(server, form)
    with room(len(form["served"]) + 10), pytest.raises(OSError, match="have room"):
        file.fetch()
    assert [Path(name).name for name in files_in_cache()] == [f"{form['name']}.part"]
    assert file.fetch().read_bytes() == CONTENT
    assert server.requests[1:] == [(form["name"], f"bytes={len(form['served'])}-")]


def test_two_at_once_download_once(server):
    file, found = publish(server, PLAIN), []
    threads = [
        threading.Thread(target=lambda: found.append(file.fetch().read_bytes())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert len(server.requests) == 1


def tarred(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_mirror_may_be_packed_in_another_way(server):
    server.files["set.tgz"] = tarred({"set/file.bin": CONTENT, "set/readme.txt": b"read me"})
    mirror = server.url("set.tgz")
    file = PublishedFile("set/file.bin", (server.url("gone"),), SHA256, MD5, mirrors=(mirror,))
    assert file.fetch().read_bytes() == CONTENT
    assert (folder() / "set/readme.txt").read_bytes() == b"read me"


@pytest.mark.parametrize(
    ("name", "served"),
    [
        pytest.param("set.tgz", tarred({"set/file.bin": CONTENT[:-1]}), id="other content"),
        pytest.param("set.tgz", tarred({"set/file.bin": CONTENT})[:-100], id="cut"),
        pytest.param("file.bin", CONTENT + b"!", id="plain"),
    ],
)
def test_a_mirror_is_held_to_the_kept_checksum(server, name, served):
    server.files[name] = served
    file = PublishedFile("set/file.bin", (), SHA256, mirrors=(server.url(name),))
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        file.fetch()
    assert files_in_cache() == []


def test_a_file_may_be_held_to_its_size(server):
    server.files["file.bin"] = CONTENT
    for size, accepted in ((len(CONTENT), True), (len(CONTENT) + 1, False)):
        file = PublishedFile(f"{size}.bin", (server.url("file.bin"),), size=size)
        if accepted:
            assert file.fetch().stat().st_size == size
        else:
            with pytest.raises(FileNotFoundError, match=f"must have {size} bytes"):
                file.fetch()


def test_a_download_names_its_user_agent(server):
    publish(server, PLAIN).fetch()
    assert unanswered(server.url("file.bin")) is None
    assert [agent.startswith("sparsemat/") for agent in server.agents] == [True, True]


def test_an_address_that_does_not_answer_is_told(server, monkeypatch, capsys):
    server.files["there"] = b"content"
    there, gone = server.url("there"), server.url("gone")
    monkeypatch.setattr(datasets, "addresses", lambda: [there, gone])
    assert main(["downloads"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"answers: {there}"
    assert "404" in lines[1] and gone in lines[1]
    monkeypatch.setattr(datasets, "addresses", lambda: [there])
    assert main(["downloads"]) == 0


def test_every_release_has_a_checksum_or_a_form_and_most_two_addresses():
    known = datasets.addresses()
    assert len(known) == len(set(known)) >= 20
    assert all(url.startswith(("https://", "http://cs231n.stanford.edu")) for url in known)
    for file in (*datasets.MNIST_FILES, *datasets.AG_NEWS_FILES, *datasets.PTB_FILES):
        assert len({*file.urls, *file.mirrors}) >= 2
        assert file.sha256 or file.md5
