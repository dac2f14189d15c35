"""Settings and fixtures shared by all tests."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from browsing import HTML, chromium
from hypothesis import settings

# The same examples in every run, and no clock: a busy machine must not fail a test.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


# few tests that take minutes: begun last, they would leave the other worker idle
LONG = {"test_accessibility", "test_browser", "test_mutations", "test_experiments_chapters"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; all others stay in order."""
    items.sort(key=lambda item: item.path.stem not in LONG)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def site():
    """Address of a local server: from file:// chromium refuses to preload fonts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(HTML)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Patient:
    """A browser whose pages give a busy machine two minutes for each step."""

    def __init__(self, chromium):
        self.chromium = chromium

    def new_page(self, **options):
        page = self.chromium.new_page(**options)
        page.set_default_timeout(120_000)
        return page


@pytest.fixture(scope="session")
def browser():
    with chromium() as running:
        yield Patient(running)
