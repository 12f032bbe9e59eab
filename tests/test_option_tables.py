"""The option tables of docs/ are those of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from tools.option_tables import DOCS, page_with_tables, table
from uertool.settings import Setting, Settings


@dataclass(frozen=True)
class Sample(Settings):
    """One field of each kind."""

    topn: Annotated[int, Setting("Results for each mask", min=1, names=("n",))] = 10
    top_p: Annotated[float | None, Setting("Nucleus | size", above=0, max=1, default="all")] = None
    pooling: Annotated[Literal["first", "mean"], Setting("Pooling")] = "first"
    layers: Annotated[tuple[int, ...], Setting("Layers to average")] = (1, 12)
    cased: Annotated[bool | None, Setting("Keep capitals", valued=True)] = None
    stop: Annotated[bool, Setting("End at the end mark")] = True
    path: Annotated[Path | None, Setting("Input", metavar="FILE")] = None
    secret: Annotated[bool, Setting("Internal", hidden=True)] = False
    undeclared: int = 0


def test_a_table_has_a_row_for_each_option() -> None:
    assert table(Sample).splitlines()[2:] == [
        "| `--topn`, `-n` | integer at least 1 | `10` | Results for each mask |",
        "| `--top-p` | number in (0, 1] | all | Nucleus \\| size |",
        "| `--pooling` | `first`, `mean` | `first` | Pooling |",
        "| `--layers` | integer (several) | `1,12` | Layers to average |",
        "| `--cased` | `true`, `false` |  | Keep capitals |",
        "| `--stop`, `--no-stop` |  | on | End at the end mark |",
        "| `--path` | FILE |  | Input |",
    ]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_tables_in_the_documents_are_up_to_date(page: Path) -> None:
    text = page.read_text("utf-8")
    assert page_with_tables(text) == text, "run: make tables"
