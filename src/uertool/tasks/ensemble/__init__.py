"""Stacking: a LightGBM model that learns from the outputs of base models which to trust when.

    settings.py    what is learnt from, how, and where results are written
    data.py        labels and feature files, read and checked
    parameters.py  LightGBM parameters and search ranges, their files and validation
    scores.py      stratified folds, scores, and what an ensemble must beat
    fit.py         learning and honest scores
    ensemble.py    the result: its folder, its predictions
    search.py      Bayesian search for the parameters
    plots.py       charts

scikit-learn, LightGBM, Optuna and matplotlib are imported when they are first needed.
"""
