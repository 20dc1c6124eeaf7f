"""Processes of their own for what ends or changes one, forked from one that has everything imported: each starts in no time."""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.train_worker"])
