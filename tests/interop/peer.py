"""CPython's end of the interop tests: `peer.py serve FAMILY KEY` prints its address and accepts one
Client, `peer.py call ADDRESS KEY` calls a Listener; an empty KEY is none. Then it does what it is
told, a message at a time, until it is told "stop". What goes wrong is printed, as Python names it."""

import ast
import hashlib
import os
import struct
import sys
from multiprocessing.connection import Client, Listener


class Unknown:
    """Whose name no other program knows."""


def echo(connection, value):
    connection.send((type(value).__name__, repr(value), value))


def echo_bytes(connection, count):
    for _ in range(count):
        connection.send_bytes(connection.recv_bytes())


def digest(connection):
    data = connection.recv_bytes()
    connection.send((len(data), hashlib.sha256(data).hexdigest()))


def pattern(connection, size):
    connection.send_bytes(bytes(range(251)) * (size // 251) + bytes(range(size % 251)))


def fail(connection, name, *args):
    connection.send(getattr(__builtins__, name)(*args))


def unknown(connection):
    connection.send(Unknown())


def malicious(connection):
    connection.send_bytes(b"cos\nsystem\n(S'echo pwned'\ntR.")


def long_header(connection, size):
    os.write(connection.fileno(), struct.pack("!iQ", -1, size) + b"x" * size)


def header(connection, number):
    os.write(connection.fileno(), struct.pack("!i", number))


def die_inside(connection):
    os.write(connection.fileno(), struct.pack("!i", 100) + b"half")
    os._exit(0)


def die(connection):
    os._exit(0)


def main():
    mode, where, key = sys.argv[1:]
    key = key.encode() or None
    if mode == "serve":
        address = ("::1", 0) if where == "AF_INET6" else None
        listener = Listener(address, family=where, authkey=key)
        print(repr(listener.address), flush=True)
        connection = listener.accept()
        listener.close()
    else:
        connection = Client(ast.literal_eval(where), authkey=key)
    while True:
        command = connection.recv()
        if command == "stop":
            break
        globals()[command[0]](connection, *command[1:])


try:
    main()
except Exception as error:
    print(type(error).__name__, error, flush=True)
