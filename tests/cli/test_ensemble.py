"""`uertool ensemble` as users type it: old flags, outputs that feed each other, faults in words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tasks.ensemble.ensemble_data import write_case, write_labels
from uertool.cli.app import main

pytestmark = pytest.mark.slow

SMALL = ["--min-data-in-leaf", "5", "--rounds", "15"]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("case"))


def spelt(name: str, style: str) -> str:
    return name.replace("-", "_").replace("__", "--", 1) if style == "snake" else name


def old_flags(case: Path, style: str = "snake", *, test: bool = True) -> list[str]:
    """The flags of run_lgb, in either spelling."""
    pairs = {
        "--train-path": str(case / "train.tsv"),
        "--train-features-path": f"{case}/",
        "--models-num": "3",
        "--labels-num": "3",
    }
    if test:
        pairs |= {"--test-path": str(case / "test.tsv"), "--test-features-path": f"{case}/"}
    return [word for name, value in pairs.items() for word in (spelt(name, style), value)]


@pytest.mark.parametrize("style", ["snake", "kebab"])
def test_the_old_flags_fit_and_report_in_tables(
    case: Path, style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ensemble", "fit", *old_flags(case, style)]) == 0
    out = capsys.readouterr().out
    for words in ("macro F1", "Confusion matrix", "weighted average", "model 2", "precision"):
        assert words in out


def test_json_is_one_object_with_all_scores(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*old_flags(case), *SMALL, "--folds", "3", "--json", "--early_stopping", "5"]
    assert main(["ensemble", "fit", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["splits"]) == {"test", "out_of_fold"}
    for part in report["splits"].values():
        assert set(part["scores"]) == {
            "ensemble", "average", "weighted average", "model 0", "model 1", "model 2",
        }  # fmt: skip
        assert len(part["ensemble"]["labels"]) == 3
        assert np.sum(part["ensemble"]["confusion"]) == part["lines"]
    assert len(report["importance"]) == 3
    assert report["params"]["min_data_in_leaf"] == 5
    assert report["params"]["learning_rate"] == 0.02


def test_search_feeds_fit_and_fit_feeds_predict(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way, each step with what the one before wrote."""
    found, fitted = tmp_path / "found", tmp_path / "fitted"
    assert main([
        "ensemble", "search", *old_flags(case, test=False), "--folds_num", "3",
        "--epochs_num", "6", "--rounds", "20", "--output-path", str(found),
    ]) == 0  # fmt: skip
    assert "best macro_f1" in capsys.readouterr().out
    best = json.loads((found / "best.json").read_text(encoding="utf-8"))
    assert main([
        "ensemble", "fit", *old_flags(case), "--params", str(found / "best.json"),
        "--output-path", str(fitted), "--plot", "--save-run", "--json",
    ]) == 0  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert report["params"] == best["params"]
    assert report["rounds"] == best["rounds"]
    assert (fitted / "confusion_test.png").read_bytes().startswith(b"\x89PNG")
    assert Path(f"{fitted}.run.json").is_file()
    output, probabilities = tmp_path / "p.tsv", tmp_path / "p.npy"
    assert main([
        "ensemble", "predict", "--model-path", str(fitted), "--test_features_path", f"{case}/",
        "--prediction_path", str(output), "--probabilities-path", str(probabilities),
    ]) == 0  # fmt: skip
    np.testing.assert_array_equal(
        np.load(probabilities), np.load(fitted / "probabilities_test.npy")
    )
    rows = output.read_text(encoding="utf-8").splitlines()
    written = (fitted / "predictions_test.tsv").read_text(encoding="utf-8").splitlines()
    assert rows == [row.split("\t", 1)[1] for row in written]


def test_predict_streams_to_standard_output_and_reports_scores(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = str(tmp_path / "fitted")
    assert main(["ensemble", "fit", *old_flags(case), *SMALL, "-o", fitted, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    features = sorted(str(path) for path in case.glob("test_features_*.npy"))
    assert main([
        "ensemble", "predict", "-m", fitted, "--test_features_path", *features,
        "--test_path", str(case / "test.tsv"), "--json",
    ]) == 0  # fmt: skip
    captured = capsys.readouterr()
    records = [json.loads(line) for line in captured.out.splitlines()]
    right = sum(record["label"] == record["prediction"] for record in records)
    scores = report["splits"]["test"]["scores"]
    assert right / len(records) == scores["ensemble"]["accuracy"]
    assert "macro F1" in captured.err
    assert f"{scores['weighted average']['macro_f1']:.4f}" in captured.err


def test_flags_are_over_the_settings_file(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.toml" if sys.version_info >= (3, 11) else tmp_path / "p.json").touch()
    path = tmp_path / "p.json"
    path.write_text('{"learning_rate": 0.3, "num_leaves": 5, "rounds": 9}', encoding="utf-8")
    assert main([
        "ensemble", "fit", *old_flags(case), "--params", str(path), "--num_leaves", "6",
        "--param", "path_smooth=0.5", "--json",
    ]) == 0  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert report["params"] == {"learning_rate": 0.3, "num_leaves": 6, "path_smooth": 0.5}
    assert report["rounds"] == 9


def test_a_parameter_given_to_search_is_not_searched(
    case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*old_flags(case, test=False), "--epochs_num", "2", "--rounds", "10", "--json"]
    assert main(["ensemble", "search", *arguments, "--num-leaves", "7"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["params"]["num_leaves"] == 7


def test_the_search_resumes_from_its_storage(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "ensemble", "search", *old_flags(case, test=False), "--rounds", "10", "--json",
        "--storage", f"sqlite:///{tmp_path / 's.db'}", "--epochs_num",
    ]  # fmt: skip
    assert main([*arguments, "2"]) == 0
    assert main([*arguments, "5"]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["found"]["trials"] for report in reports] == [2, 5]
    assert main([*arguments, "6", "--seed", "9"]) == 2
    assert "another search; what differs: seed" in capsys.readouterr().err


def test_ctrl_c_keeps_the_best_so_far(
    case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uertool.tasks.ensemble import search

    real, calls = search._Trials.score, []

    def stop_at_third(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(search._Trials, "score", stop_at_third)
    folder = tmp_path / "found"
    arguments = [*old_flags(case, test=False), "--rounds", "10", "-o", str(folder)]
    assert main(["ensemble", "search", *arguments]) == 130
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["stopped"] == "interrupted"
    assert report["found"]["trials"] == 2


# -- faults -----------------------------------------------------------------------------------


def change(case: Path, what: str) -> Path:
    """Break one thing in a case."""
    features = case / "train_features_1.npy"
    labels = np.array([int(row[0]) for row in (case / "train.tsv").read_text().splitlines()[1:]])
    if what == "lines":
        np.save(features, np.load(features)[:-1])
    elif what == "label":
        write_labels(case / "train.tsv", np.where(np.arange(len(labels)) == 4, 3, labels))
    elif what == "missing":
        features.unlink()
    elif what == "rare":
        labels[labels == 2] = 1
        labels[0] = 2
        write_labels(case / "train.tsv", labels)
    elif what == "nan":
        values = np.load(features)
        values[17, 1] = np.nan
        np.save(features, values)
    elif what == "two":
        write_labels(case / "train.tsv", np.array([0, 1]))
        for path in case.glob("train_features_*.npy"):
            np.save(path, np.load(path)[:2])
    return case


FAULTS = {
    "lines": "train_features_1.npy has 299 rows, but {case}/train.tsv has 300 lines",
    "label": "line 6: the label 3 is outside 0..2",
    "missing": "features of base model 1 are missing: there is no {case}/train_features_1.npy, but",
    "rare": "absent from a fold: label 2 has 1",
    "nan": "train_features_1.npy holds NaN or infinity in 1 of 300 rows, the first in row 17",
    "two": "2 lines of data",
}


@pytest.mark.parametrize("what", FAULTS)
@pytest.mark.parametrize("command", ["fit", "search"])
def test_bad_input_is_reported_in_one_sentence(
    tmp_path: Path, command: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = change(write_case(tmp_path), what)
    extra = ["--folds", "5"] if command == "fit" else ["--epochs_num", "1", "--rounds", "5"]
    assert main(["ensemble", command, *old_flags(case, test=command == "fit"), *extra]) == 1
    captured = capsys.readouterr()
    assert FAULTS[what].format(case=case) in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_one_base_model_only_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = write_case(tmp_path, models_num=1)
    arguments = old_flags(case)
    arguments[arguments.index("--models_num") + 1] = "1"
    assert main(["ensemble", "fit", *arguments]) == 0
    assert "warning: There is only one base model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit"], "--train-path is missing"),
        (["fit", "--train_path", "a.tsv"], "--train-features-path is missing"),
        (["fit", "--train_path", "a", "--test_path", "b"], "go together; one is missing"),
        (["predict"], "--model-path is missing"),
        (["search", "--plot"], "--plot writes files, but there is no output folder"),
        (["fit", "--param", "x"], "Invalid --param: 'x' (must be NAME=VALUE)"),
        (
            ["fit", "--learning_rate", "-1"],
            "invalid learning_rate: -1.0 (LightGBM: learning_rate > 0.0 is required)",
        ),
    ],
)
def test_invalid_options_are_reported_with_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ensemble", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_an_existing_output_is_kept_by_default(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ensemble", "fit", *old_flags(case), *SMALL, "-o", str(tmp_path)]
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert main(arguments) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "model.txt").is_file()


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from uertool.cli.app import main\n"
        "code = main(['ensemble', 'fit', '--help'])\n"
        "heavy = {'numpy', 'lightgbm', 'optuna', 'sklearn', 'torch', 'matplotlib'}\n"
        "sys.exit(code or ', '.join(sorted(heavy & set(sys.modules))) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--train-features-path" in done.stdout


@pytest.mark.parametrize(("package", "command"), [("lightgbm", "fit"), ("optuna", "search")])
def test_a_missing_extra_says_how_to_install_it(
    case: Path,
    package: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["ensemble", command, *old_flags(case, test=command == "fit")]) == 1
    assert "uertool[ensemble]" in capsys.readouterr().err
