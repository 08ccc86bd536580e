"""The only place that says which files the starter model learns from, and which are held out to judge it."""

import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# Folders, at any depth, and files that are not what people mean by "Python code".
LEFT_OUT_FOLDERS = {
    "test",
    "tests",
    "idle_test",
    "__pycache__",
    "site-packages",
    "dist-packages",
    "lib-dynload",
    "encodings",  # codec tables: one token in seven, and none of it worth saying
    "msilib",  # the Windows installer's tables
    "pydoc_data",  # topics.py: the manual as one string per topic
    "_bundled",  # wheels
}
LEFT_OUT_FILES = {"html/entities.py", "stringprep.py", "lib2to3/pgen2/token.py"}
LEFT_OUT_PREFIXES = (
    "_sysconfigdata",  # generated when the interpreter was built; names the builder's folders
    "config-",
)
HELD_OUT = 0.05  # of the files
SEED = 1


@dataclass(frozen=True)
class Document:
    """One source file: its name relative to the library's root, with forward slashes, and its text."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """What is learned from and what is held out; no file is in both."""

    train: list[Document]
    held_out: list[Document]


def is_wanted(name: str) -> bool:
    """Whether the file of this relative name belongs to the corpus."""
    *folders, file = name.split("/")
    return (
        file.endswith(".py")
        and LEFT_OUT_FOLDERS.isdisjoint(folders)
        and name not in LEFT_OUT_FILES
        and not name.startswith(LEFT_OUT_PREFIXES)
    )


def read_documents(root: Path | None = None) -> list[Document]:
    """The wanted, non-empty files under `root` (default: this interpreter's standard library), by name."""
    root = root or Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    documents = [Document(name, (root / name).read_text("utf-8")) for name in names if is_wanted(name)]
    return [document for document in documents if document.text.strip()]


def split(documents: list[Document], seed: int) -> Corpus:
    """Hold out whole files at random: blocks of a file that was learned from would flatter the model."""
    names = random.Random(seed).sample(
        [document.name for document in documents], max(1, round(HELD_OUT * len(documents)))
    )
    held_out = set(names)
    return Corpus(
        train=[document for document in documents if document.name not in held_out],
        held_out=[document for document in documents if document.name in held_out],
    )


def size(documents: list[Document]) -> int:
    """Bytes of UTF-8 in all these documents."""
    return sum(len(document.text.encode()) for document in documents)
