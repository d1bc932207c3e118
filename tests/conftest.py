"""Everything runs on 8 fake CPU devices, under strict dtypes and shapes, without a network."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads would only wait for each other
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
os.environ["NT_JAX_CACHE"] = "off"  # nothing from another run, nothing left for one

import signal
import socket
from pathlib import Path

import jax
import pytest
from hypothesis import settings

from tests.commands import calls
from tests.quick import quick_flags

__all__ = ["calls"]  # a fixture: what commands hand over

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
# Compiling tiny programs is most of the work here; the full optimiser would double it.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["XLA_FLAGS"] = quick_flags(os.environ.get("XLA_FLAGS", ""))
if hasattr(jax.config, "jax_captured_constants_warn_bytes"):
    # Weights that a jitted function closes over become constants of its program: a mistake here.
    jax.config.update("jax_captured_constants_warn_bytes", 1 << 20)

# Tests share their cores with others, so the clock must not fail one.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled programs between runs, beside pytest's own notes (.pytest_cache)."""
    if config.pluginmanager.has_plugin("cacheprovider"):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


# Groups of the run with several workers that take longest, so that none is begun last.
FIRST = ("run", "train/test_maml.py", "paper", "models/test_heads_on_mesh.py", "test_benchmarks.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file with one worker: what one compiles the others have."""

    def group(item: pytest.Item) -> str:
        mark = item.get_closest_marker("xdist_group")
        return mark.args[0] if mark else item.path.relative_to(Path(__file__).parent).as_posix()

    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: FIRST.index(group(item)) if group(item) in FIRST else len(FIRST))


ROOM = 4 << 30  # bytes of a worker up to which compiled programs are kept for the next module


@pytest.fixture(scope="module", autouse=True)
def free_programs():
    """Let go of compiled programs before they fill the memory."""
    yield
    pages = Path("/proc/self/statm")
    held = int(pages.read_text().split()[1]) if pages.exists() else ROOM
    if held * os.sysconf("SC_PAGE_SIZE") > ROOM:
        jax.clear_caches()


HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers_put_back():
    """A test that leaves its own handler of a signal behind fails itself, not one that follows."""
    before = [signal.getsignal(number) for number in HANDLED]
    yield
    left = [signal.getsignal(number) for number in HANDLED]
    for number, handler in zip(HANDLED, before, strict=True):
        if handler is not None:  # a library's own, not Python's
            signal.signal(number, handler)
    assert left == before


@pytest.fixture
def x64():
    """64-bit numbers for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine; only tests marked `network` may make them."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise ConnectionRefusedError(f"a test tried to connect to {address}")
        connect(self, address)

    if request.node.get_closest_marker("network") is None:
        monkeypatch.setattr(socket.socket, "connect", local_only)
