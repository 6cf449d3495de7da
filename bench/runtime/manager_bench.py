"""CPython's end of manager_bench: `get COUNT` and `create COUNT` on a manager of its own, a line each;
prints the seconds each took."""

import sys
import time
from multiprocessing.managers import SyncManager


def run(manager, shared, what, count):
    start = time.perf_counter()
    for _ in range(count):
        if what == "get":
            shared["key"]
        else:
            manager.list()
    return time.perf_counter() - start


if __name__ == "__main__":
    with SyncManager() as manager:
        shared = manager.dict(key=1)
        print("ready", flush=True)
        for line in sys.stdin:
            what, count = line.split()
            print(run(manager, shared, what, int(count)), flush=True)
