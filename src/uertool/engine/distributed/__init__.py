"""A job over inputs too large for one machine, cut into blocks that Ray Data maps.

    inputs.py    what is read: files of many kinds, counted and cut into blocks of whole lines
    reading.py   the lines of a block
    store.py     where shards are written: a folder on any file system that pyarrow knows
    work.py      what becomes of a block's lines; `JobWork` does what `engine.workers.run_job` does
    actor.py     what runs on a worker: it holds the model and turns blocks into shards
    cluster.py   connecting to Ray, or starting it
    run.py       the whole run: plan, resume, map, manifest

Scheduling, retries and transport are Ray's. Through it travel descriptions of blocks and short
messages only: workers read their lines and write their shards themselves.
"""
