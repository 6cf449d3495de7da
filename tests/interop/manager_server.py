"""A CPython manager for millrace clients. Prints its address; ends with its standard input.
Argument: "set", and it has sets, as those of 3.14 do."""
import sys
from multiprocessing.managers import MakeProxyType, SyncManager


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
    if sys.argv[1:] == ["set"]:
        Manager.register("set", set, MakeProxyType("SetProxy", [
            name for name in dir(set) if not name.startswith("_")] + [
            "__contains__", "__len__", "__and__", "__or__", "__sub__", "__xor__"]))
    m = Manager(authkey=b"abracadabra")
    m.start()
    print(m.address, flush=True)
    sys.stdin.read()
    m.shutdown()


if __name__ == "__main__":
    main()
