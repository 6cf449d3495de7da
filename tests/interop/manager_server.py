"""A CPython manager for millrace clients. Prints its address; ends with its standard input."""
import sys
from multiprocessing.managers import BaseManager, SyncManager


class Maths:
    def add(self, x, y):
        return x + y

    def fail(self):
        raise ZeroDivisionError("division by zero")

    def unpicklable(self):
        return lambda: None


class Manager(SyncManager):
    pass


Manager.register("Maths", Maths)


def main():
    m = Manager(authkey=b"abracadabra")
    m.start()
    print(m.address, flush=True)
    sys.stdin.read()
    m.shutdown()


if __name__ == "__main__":
    main()
