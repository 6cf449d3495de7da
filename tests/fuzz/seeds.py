#!/usr/bin/env python3
"""seeds.py connection|handshake FOLDER: inputs that the fuzzers of sockets begin with.

What goes over the wire is CPython's own: its Connection frames the messages, its deliver_challenge
makes the challenges. The steps around it are those of the fuzzers.
"""
import os
import socket
import sys
from multiprocessing import connection

STEPS = ("raw frame prove prove_other guess reflect reflect_other ask welcome fail cut hang_up "
         "switch behind").split()
DIGESTS = range(6)
ACCEPTING, CONNECTING, LEGACY = 0, 2, 1


def captured(act):
    """The bytes that `act` sends over a Connection of CPython's."""
    ours, theirs = socket.socketpair()
    with connection.Connection(theirs.detach()) as there:
        act(there)
    with ours, ours.makefile("rb") as stream:
        return stream.read()


def challenge():
    def act(there):
        try:
            connection.deliver_challenge(there, b"another")
        except (EOFError, OSError):
            pass  # nobody answers
    ours, theirs = socket.socketpair()
    with ours, connection.Connection(theirs.detach()) as there:
        ours.shutdown(socket.SHUT_WR)
        act(there)
        return ours.recv(4096)


def step(name, *following):
    return bytes([STEPS.index(name)]) + b"".join(
        bytes([each]) if isinstance(each, int) else each for each in following)


def handshakes():
    wire = challenge()
    behind = step("behind", 5, b"after")
    asked = [step("ask", digest, 40, bytes(range(40))) for digest in DIGESTS]
    asked += [step("ask", 0, 20, bytes(20)), step("raw", len(wire), wire)]
    for legacy in (0, LEGACY):
        for digest in DIGESTS:
            for ask in asked:
                yield bytes([ACCEPTING | legacy]) + step("prove", digest) + ask + step("welcome")
                yield bytes([CONNECTING | legacy]) + ask + step("welcome") + step("prove", digest)
                yield bytes([ACCEPTING | legacy]) + step("prove", digest) + ask + behind + step("welcome")
                yield bytes([CONNECTING | legacy]) + ask + step("welcome") + behind + step("prove", digest)
    for role in (ACCEPTING, CONNECTING):
        head = bytes([role | LEGACY])
        lead = asked[2] + step("welcome") if role == CONNECTING else b""
        for thief in ("guess", "prove_other", "reflect", "reflect_other"):
            for choice in DIGESTS:
                yield head + lead + step(thief, choice) + asked[2] + step("welcome")
                yield head + lead + step("switch") + lead + step("prove", 2) + step(
                    "switch") + step(thief, choice) + asked[2] + step("welcome")
        for cut in (0, 1, 4, 5, 40):
            yield head + step("cut", cut) + lead + step("prove", 2) + asked[2] + step("welcome")
        for size in (b"\0\0\1\1", b"\xff\xff\xff\xff", b"\xff\xff\xff\xfe", b"\0\0\0\0", b"GET "):
            yield head + lead + step("raw", 4, size) + step("prove", 2)
        yield head + lead + step("hang_up")
        yield head + lead + step("fail")
        yield head + lead + step("frame", 9, b"#WELCOME#") + step("prove", 2)
        yield head + lead + step("prove", 2) + asked[2] + step("welcome") + step("raw", 5, b"after")


def connections():
    def send(*messages):
        return captured(lambda there: [there.send_bytes(each) for each in messages])

    def send_objects(*objects):
        return captured(lambda there: [there.send(each) for each in objects])

    streams = [send(b""), send(b"one"), send(b"x" * 300, b"", b"y"), send(b"z" * 5000),
               send_objects(1, "two", [3.0, None], {"k": (True, b"v")}, ValueError("no")),
               b"", b"\0", b"\0\0\0\5ab", b"\xff\xff\xff\xff" + (5).to_bytes(8, "big") + b"longs",
               b"\xff\xff\xff\xff" + (1 << 32).to_bytes(8, "big") + b"4 GiB",
               b"\xff\xff\xff\xff" + b"\xff" * 8, b"\xff\xff\xff\xff\0\0\0", b"\xff\xff\xff\xfe",
               b"\x7f\xff\xff\xff" + b"2 GiB less one", b"\x80\0\0\0"]
    streams += [send(b"first") + each for each in streams[5:]]
    calls = [bytes([6, *[call] * 6]) for call in range(5)] + [bytes([8, 0, 1, 2, 3, 4, 0, 1, 2])]
    for pieces in (0, 3):
        for call in calls:
            for stream in streams:
                yield bytes([pieces]) + call + stream


def main():
    kind, folder = sys.argv[1:]
    os.makedirs(folder)
    inputs = {"connection": connections, "handshake": handshakes}[kind]()
    for number, each in enumerate(inputs):
        with open(os.path.join(folder, f"{number:04}"), "wb") as out:
            out.write(each)


main()
