"""What the fuzzers share: valid examples damaged in every way, and the one rule for whatever comes of them."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import resource
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from recbole_genrec.errors import UserError

#: Inputs tried, by property.
TRIED: Counter[str] = Counter()
#: An example may take so long, and the process may grow by so much over all of them.
SECONDS, BYTES = 60, 2 << 30
_BEFORE = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

#: What readers of text stumble over, as bytes: broken encodings, numbers that are none or too large, YAML's and JSON's
#: own marks, formulas, markup, templates.
HOSTILE = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass") for text in (
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\x1f\x8b", "\ud800", "\t", "\t\t", "\r", "\n", "\n\n",
    "\r\n", "\x0b", "\x1c", "\x85", "\u2028", "\u202e", "\ufeff", "é", "👩\u200d🚀",
    '"', "'", "\\", "\\N", "`", "$", "#",
    ":", "::", ": ", "- ", "&a [*a]", "*a", "!!python/object/apply:os.getcwd []", "!!int x", "? ", "|", ">", "[", "]",
    "{", "}", "{}", "{a}", "{0}", "{user}", "{history}", "{title:>9999999999}", "{x!r}", "{history.__class__}", "{{",
    "%s", "nan", "NaN", "inf", "-inf", "null", "~", "true", "None", "0", "-0", "-1", "1e999", "1e-999", "9" * 400,
    "-" + "9" * 30, "0x1f", "1_0", "2024-13-45", "1:60:60", "=1+1", "+1", "-1+1", "@SUM(A1)",
    "<script>alert(1)</script>", "</script>", "&amp;", "../x", "/etc/passwd", "a/b", ".", "..", "x" * 5000, "[" * 3000,
    "{" * 300, "(" * 300, "a" * 300 + "!", " ", "  ", ",", ";", "|x|")]
PIECE = st.sampled_from(HOSTILE) | st.binary(max_size=6) | st.text(max_size=6).map(
    lambda text: text.encode("utf-8", "surrogatepass"))


def _cut(draw, content: bytes) -> tuple[int, int]:
    """A short stretch of it, often at its beginning."""
    begin = draw(st.integers(0, len(content)))
    return begin, min(len(content), begin + draw(st.integers(0, 12)))


def _replace(draw, content: bytes) -> bytes:
    begin, end = _cut(draw, content)
    return content[:begin] + draw(PIECE) + content[end:]


def _repeat(draw, content: bytes) -> bytes:
    begin, end = _cut(draw, content)
    return content[:end] + content[begin:end] * draw(st.integers(1, 3)) + content[end:]


def _truncate(draw, content: bytes) -> bytes:
    return content[:draw(st.integers(0, len(content)))]


def _field(draw, content: bytes) -> bytes:
    """One field of one line becomes something else."""
    lines = content.split(b"\n")
    row = draw(st.integers(0, len(lines) - 1))
    mark = draw(st.sampled_from([b"\t", b",", b"::", b": ", b" ", b"|", b'"']))
    fields = lines[row].split(mark)
    fields[draw(st.integers(0, len(fields) - 1))] = draw(PIECE)
    lines[row] = mark.join(fields)
    return b"\n".join(lines)


def _lines(draw, content: bytes) -> bytes:
    """Lines lost, repeated, swapped, or of something else."""
    lines = content.split(b"\n")
    one, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    what = draw(st.sampled_from(["lose", "repeat", "swap", "insert", "all"]))
    if what == "lose":
        del lines[one]
    elif what == "repeat":
        lines.insert(other, lines[one])
    elif what == "swap":
        lines[one], lines[other] = lines[other], lines[one]
    elif what == "insert":
        lines.insert(one, draw(PIECE))
    else:  # one piece behind the name of the last column, of one line only
        lines = lines[:1]
    return b"\n".join(lines)


def _encode(draw, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(draw(st.sampled_from(["utf-16", "utf-32", "latin-1", "utf-8-sig", "cp037"])), "replace")


_MUTATIONS = [_replace, _replace, _field, _field, _field, _repeat, _lines, _lines, _truncate, _encode]


@st.composite
def mutated(draw, *examples: bytes | str) -> bytes:
    """One of some valid files, with up to four things done to it."""
    content = draw(st.sampled_from([example if isinstance(example, bytes) else example.encode()
                                    for example in examples]))
    for _ in range(draw(st.integers(0, 4))):
        content = draw(st.sampled_from(_MUTATIONS))(draw, content)
    return content


#: Whatever JSON or YAML may hold.
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([piece.decode("utf-8", "replace") for piece in HOSTILE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6)


def fuzz(examples: int) -> settings:
    """Few examples in an ordinary run, always the same; ``GENREC_FUZZ=N`` tries N new ones a property."""
    wanted = os.environ.get("GENREC_FUZZ")
    more = {"derandomize": False, "print_blob": True} if wanted else {}
    return settings(max_examples=int(wanted or examples), deadline=None, suppress_health_check=list(HealthCheck),
                    phases=set(Phase) - {Phase.explain}, **more)


@contextlib.contextmanager
def bounded(name: str) -> Iterator[None]:
    """Within this block an input is counted, a hang is an error, and so is memory that grows without bound."""
    def hangs(*_):
        raise TimeoutError(f"{name}: longer than {SECONDS} seconds")

    TRIED[name] += 1
    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - _BEFORE) << 10
    assert grown < BYTES, f"{name}: the process grew by {grown >> 20} MB"


def say_tried(request) -> None:
    """Print how many inputs the module has tried; not in one of several processes, whose output is a protocol."""
    if not hasattr(request.config, "workerinput"):
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print("\ninputs tried:", *(f"{name} {count:,}" for name, count in sorted(TRIED.items())),
                  f"in all {TRIED.total():,}", sep="\n  ")
    TRIED.clear()


def refusal(name: str, call: Callable[[], object]) -> str | None:
    """The sentence with which a call is refused, None for a success; any other exception is the finding."""
    with bounded(name):
        try:
            call()
        except UserError as error:
            assert str(error).strip()
            return str(error)
    return None


def typed(name: str, main: Callable[[list[str]], int], arguments: list[str], codes: tuple[int, ...] = (0, 2)) -> str:
    """What a command prints on stderr. The exit code is one of ``codes``; with 2 there is just one line of ours."""
    # As Python's own: only stderr takes every text.
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    with bounded(name), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as done:  # argparse, after --help or a mistake
            code = done.code
    err.flush()
    said = err.buffer.getvalue().decode()
    lines = [line for line in said.split("\n") if line and not line.startswith("warning:")]
    assert code in codes, (code, said)
    assert "Traceback" not in said
    assert len(lines) == (code == 2) and all("error: " in line for line in lines), (code, said)
    gc.collect(0)
    return said


@pytest.fixture(scope="module", autouse=True)
def told(request):
    """The counts are printed when a module that imports this is done."""
    yield
    say_tried(request)


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory):
    """A folder of its own, in which all examples of a module work."""
    folder = tmp_path_factory.mktemp("fuzz")
    with contextlib.chdir(folder):
        yield folder
