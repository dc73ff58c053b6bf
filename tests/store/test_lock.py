import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from store.errors import StoreLocked
from store.tables import Tables
from tests.store.shelf import hold_the_lock, items


def test_a_second_writer_is_told_who_the_first_is_and_death_frees_the_lock(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    owner = context.Process(target=hold_the_lock, args=(str(tmp_path), theirs))
    owner.start()
    pid = ours.recv()
    tables = Tables(tmp_path, lock_wait=0.1)
    with pytest.raises(StoreLocked, match=rf"being written by process {pid} on .* waited 0.1 s"):
        tables.upsert("items", items(["a"]))
    os.kill(pid, signal.SIGKILL)
    owner.join()
    assert tables.upsert("items", items(["a"])) == 1


def test_one_process_may_take_the_lock_again_and_names_itself_in_it(tmp_path: Path):
    with Tables(tmp_path).lock(), Tables(tmp_path, lock_wait=0).lock():
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / ".lock").read_text() == ""


def test_threads_take_turns(tmp_path: Path):
    tables, inside, worst = Tables(tmp_path), [], []

    def work() -> None:
        for _ in range(20):
            with tables.lock():
                inside.append(1)
                worst.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst) == 1
    assert len(worst) == 80


@pytest.mark.filterwarnings("ignore")  # Lance, LanceDB and Python each warn of any fork
def test_a_forked_child_does_not_hold_its_parents_lock(tmp_path: Path):
    reading, writing = os.pipe()
    lock = Tables(tmp_path, lock_wait=0).lock
    with lock():
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # outlive the parent's hold
            os._exit(0)
    try:
        with lock():
            pass
    finally:
        os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
