#!/usr/bin/env python3
"""CPython's word on values and pickles, one value a line.

dump SEED COUNT  prints random values as PROTOCOL HEX-PICKLE HEX-REPR
load             reads hex pickles, prints HEX-PICKLE HEX-REPR of what they are, or ERROR TEXT
corpus FOLDER    writes pickles as files, to start a fuzzer with"""

import binascii
import pathlib
import pickle
import queue
import random
import struct
import sys
import threading
from multiprocessing import context, managers

INTS = [0, 1, -1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.0, 0.1, 1e16, 1e15, 123456789012345680.0, 1e-4, 1e-5, 5e-324, 1.7976931348623157e308,
          float("inf"), float("-inf"), float("nan"), 2**53 + 0.0, 1 / 3, 100.0, 1e22, 9007199254740993.0]  # fmt: skip
CLASSES = [ValueError, TypeError, KeyError, RuntimeError, OSError, ZeroDivisionError, StopIteration, queue.Empty,
           queue.Full, threading.BrokenBarrierError, context.ProcessError, context.TimeoutError,
           context.AuthenticationError, managers.RemoteError, EOFError, Exception]  # fmt: skip


def number(r):
    return r.choice([
        lambda: r.choice(INTS),
        lambda: r.randint(-(2**63), 2**63 - 1) >> r.randrange(63),
        lambda: r.choice(FLOATS),
        lambda: struct.unpack("d", r.randbytes(8))[0],
        lambda: r.randrange(-10**6, 10**6) / 10 ** r.randrange(8),
        lambda: r.choice([True, False]),
        lambda: complex(r.choice(FLOATS), r.choice(FLOATS)),
    ])()  # fmt: skip


def text(r):
    kind = r.randrange(6)
    size = r.choice([0, 1, 3, 8, 13, 14, 15, 16, 17, 40, 300])
    if kind < 3:
        return "".join(r.choice("abc'\"\\\n\r\t\0 xyz{}") for _ in range(size))
    top = [0x100, 0x3000, 0x110000][kind - 3]
    return "".join(chr(r.randrange(top)) for _ in range(size))


def scalar(r):
    return r.choice([
        lambda: None,
        lambda: number(r),
        lambda: number(r),
        lambda: text(r),
        lambda: text(r),
        lambda: r.randbytes(r.choice([0, 1, 20, 255, 256, 300])),
        lambda: range(*sorted(r.sample(range(-50, 50), 2)), r.choice([1, 2, -3])),
    ])()  # fmt: skip


def hashable(r, depth):
    if depth > 0 and r.random() < 0.3:
        make = r.choice([tuple, tuple, frozenset])
        return make(hashable(r, depth - 1) for _ in range(r.randrange(4)))
    return scalar(r)


def failure(r):
    cls = r.choice(CLASSES)
    error = cls(*[r.choice([text(r), number(r)]) for _ in range(r.choice([0, 1, 1, 2]))])
    if r.random() < 0.2:
        error.note = text(r)
    return error


def value(r, depth, seen):
    if seen and r.random() < 0.1:
        return r.choice(seen)
    if depth == 0 or r.random() < 0.2:
        made = scalar(r)
    else:
        count = r.choice([0, 1, 2, 3, 5, 9, 20])
        some = lambda: [value(r, depth - 1, seen) for _ in range(count)]
        made = r.choice([
            some,
            lambda: tuple(some()),
            lambda: {hashable(r, 2): each for each in some()},
            lambda: {text(r): each for each in some()},
            lambda: {hashable(r, 2) for _ in range(count)},
            lambda: frozenset(hashable(r, 2) for _ in range(count)),
            lambda: bytearray(r.randbytes(r.randrange(40))),
            lambda: slice(number(r), value(r, 0, []), None),
            lambda: failure(r),
        ])()  # fmt: skip
    seen.append(made)
    return made


def long_ones():
    return [list(range(2500)), {i: str(i) for i in range(2500)}, "x" * 70000, b"y" * 70000, ["é" * 300] * 3,
            tuple(range(300)), set(range(1500)), [1.5] * 1001, [[]] * 5, bytearray(b"z" * 70000)]  # fmt: skip


def about_files():
    return [OSError(2, "No such file", "/tmp/f"), OSError(18, "cross-device", "a", None, "b"), OSError(5, "io", None),
            PermissionError(13, "denied", b"raw"), BlockingIOError(11, "again", 5), OSError(9, "bad", 7),
            OSError(2.0, "half"), BlockingIOError(11, "again", True), context.TimeoutError(1, "a", "b")]  # fmt: skip


def values(seed, count):
    r = random.Random(seed)
    yield from about_files()
    yield from long_ones()
    for _ in range(count):
        yield value(r, r.choice([0, 1, 2, 3]), [])


def to_hex(data):
    return binascii.hexlify(data).decode()


def show(made):
    return to_hex(repr(made).encode("utf-8", "surrogatepass")) or "-"


def dump(seed, count):
    r = random.Random(seed + 1)
    for made in values(seed, count):
        protocol = r.choice([0, 1, 2, 3, 4, 4, 4, 5])
        print(protocol, to_hex(pickle.dumps(made, protocol)), show(made))


def load():
    for line in sys.stdin:
        try:
            made = pickle.loads(binascii.unhexlify(line.strip()))
        except Exception as error:
            print("ERROR", repr(error).replace(" ", "_"))
        else:
            print(to_hex(pickle.dumps(made)), show(made))


def corpus(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    small = [made for made in values(7, 400) if len(pickle.dumps(made)) < 2000]
    token = managers.Token("list", ("localhost", 5000), "7f00")
    small += [token, managers.Namespace(a=1), context.BufferTooShort(b"abc")]
    for i, made in enumerate(small):
        (folder / f"{i:03}").write_bytes(pickle.dumps(made, i % 6))


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="ascii")
    if sys.argv[1] == "dump":
        dump(int(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "load":
        load()
    else:
        corpus(sys.argv[2])
