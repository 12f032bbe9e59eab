"""Pictures: bars from zero, labels that can be read, and a font that has the characters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uertool import Whitening
from uertool.errors import OutputError, UsageError
from uertool.io.vector_writer import Note
from uertool.tasks import pictures
from uertool.tasks.features.plots import (
    Classes,
    draw_vectors,
    draw_whitening,
    positions,
    read_sample,
)
from uertool.tasks.search.plots import draw_nearest

pytestmark = pytest.mark.slow  # matplotlib starts a process to list fonts

ROWS = np.random.default_rng(2).normal(size=(40, 6)).astype(np.float32) + 1
NOTES = [Note(number, f"第{number}行 $x$ </script>") for number in range(40)]


def texts_of(path: Path) -> list[str]:
    """The texts that an SVG was drawn with, which matplotlib writes as comments."""
    return re.findall(r"<!-- (.*?) -->", path.read_text("utf-8"))


def test_labels_are_one_short_line() -> None:
    assert pictures.label("一\n二  三") == "一 二 三"
    assert pictures.label("一二三四五", 4) == "一二三…"
    assert pictures.label("$5") == r"\$5"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved."""
    from matplotlib.figure import Figure

    found: list[Any] = []
    save = Figure.savefig

    def remembered(self: Any, *given: Any, **more: Any) -> None:
        found.append(self)
        save(self, *given, **more)

    monkeypatch.setattr(Figure, "savefig", remembered)
    return found


def test_bars_begin_at_zero(tmp_path: Path, figures: list[Any]) -> None:
    groups = [("好", [("差", 0.9), ("大", 0.85)]), ("无", []), ("国", [("华", 0.7)])]
    pictures.bars(tmp_path / "a.png", groups)
    axes = [one for one in figures[0].axes if one.patches]
    assert [one.get_title(loc="left") for one in axes] == ["好", "国"]
    for one in axes:
        assert all(bar.get_x() == 0 for bar in one.patches)
        assert one.get_xlim() == pytest.approx((0, 1.15 * 0.9))


def test_pictures_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    pictures.bars(path, [("a", [("b", 1.0)])])
    assert {"a", "b", "cosine"} <= set(texts_of(path))
    with pytest.raises(OutputError, match="exists already"):
        pictures.bars(path, [("a", [("b", 1.0)])])
    with pytest.raises(UsageError, match=r"\.gif"):
        pictures.require_drawing(tmp_path / "a.gif")


def test_without_a_font_lines_are_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: list[Any]
) -> None:
    monkeypatch.setattr(pictures, "chinese_font", lambda: None)
    said = draw_vectors(tmp_path / "a.svg", ROWS, ROWS, NOTES)
    assert said == [pictures.NO_FONT]
    (axes, _) = figures[0].axes
    assert len(axes.texts) > 5
    frame = axes.get_window_extent()
    for text in axes.texts:
        assert text.get_text().startswith("line ")
        box = text.get_window_extent()
        assert frame.x0 < box.x0 < box.x1 < frame.x1
        assert frame.y0 < box.y0 < box.y1 < frame.y1


def test_a_font_must_have_the_characters(tmp_path: Path) -> None:
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
    assert not pictures._has_chinese(str(fonts / "DejaVuSans.ttf"))
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    assert not pictures._has_chinese(str(tmp_path / "broken.ttf"))


def test_near_vectors_are_near_on_the_map() -> None:
    groups = np.repeat(np.eye(4, 8, dtype=np.float32), 10, axis=0)
    rows = groups + np.random.default_rng(0).normal(size=groups.shape).astype(np.float32) / 20
    points = positions(rows)
    assert points.shape == (40, 2)
    assert 0 <= points.min() <= points.max() <= 1
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    same = np.equal.outer(np.arange(40) // 10, np.arange(40) // 10)
    assert apart[same].max() < apart[~same].min()
    np.testing.assert_array_equal(points, positions(rows))


def test_a_page_holds_all_points(tmp_path: Path) -> None:
    path = tmp_path / "map.html"
    classes = {number: "ab"[number % 2] for number in range(40)}
    whitened = Whitening.fit(ROWS).transform(ROWS)
    draw_vectors(path, ROWS, whitened, NOTES, classes_of=lambda numbers: classes)
    page = path.read_text("utf-8")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    data = json.loads(re.search(r"const data = (.*?), size", page)[1])
    assert [one["title"] for one in data["maps"]] == ["original vectors", "whitened vectors"]
    assert data["texts"][3] == NOTES[3].text
    assert data["lines"][3] == 4
    assert (data["names"], data["classes"][:3]) == (["a", "b"], [0, 1, 0])


def test_rare_classes_share_a_color() -> None:
    values = [str(number // 2) for number in range(40)]
    classes = Classes.of_values(values, 40)
    assert len(classes.names) == 10
    assert classes.names[-1] == "other"
    assert classes.of.count(9) == 40 - 9 * 2


def test_the_spectrum_of_a_whitening_is_drawn(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    sample = read_sample([str(tmp_path / "a.npy")], len(ROWS))
    np.testing.assert_array_equal(sample, ROWS)
    path = tmp_path / "a.svg"
    draw_whitening(path, Whitening.fit(ROWS, 2), sample, overwrite=False)
    texts = texts_of(path)
    assert any(text.startswith("2 of 6 directions") for text in texts)
    assert any(text.startswith("whitened, mean") for text in texts)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_equal_vectors_have_one_bar(tmp_path: Path, figures: list[Any]) -> None:
    draw_nearest(tmp_path / "nearest.png", np.ones(5, dtype=np.float32), None)
    draw_vectors(tmp_path / "map.png", ROWS[[0] * 5], ROWS[[0] * 5], NOTES[:5])
    for axes, count in ((figures[0].axes[0], 5), (figures[1].axes[1], 800)):
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == pytest.approx([0] * 79 + [count])
