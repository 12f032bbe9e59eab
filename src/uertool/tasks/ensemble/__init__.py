"""Stacking: a LightGBM model that learns from the outputs of base models which to trust when.

    data.py       labels and feature files, read and checked
    folds.py      stratified, seeded splits
    metrics.py    confusion matrix, precision, recall, F1, accuracy, log loss
    baselines.py  what an ensemble must beat
    settings.py   LightGBM parameters, search ranges and their files
    boosting.py   LightGBM itself, deterministic
    fit.py        learning and honest scores
    ensemble.py   the result: its folder, its predictions
    search.py     Bayesian search for the settings
    plots.py      charts

lightgbm, optuna and matplotlib are imported when they are first needed.
"""
