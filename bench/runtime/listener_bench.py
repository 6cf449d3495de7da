"""CPython's end of listener_bench. `listen` prints an address; `call ADDRESS` calls one. Then both do
what they are told, a list at a time: WHAT, COUNT, SIZE."""

import ast
import sys
import time
from multiprocessing.connection import Client, Listener

KEY = b"key"


def take(connection, count, size):
    for _ in range(count):
        connection.recv_bytes()
    connection.send_bytes(b"")


def echo(connection, count, size):
    for _ in range(count):
        connection.send_bytes(connection.recv_bytes())


def stream_to(connection, count, size):
    """Sends them; how long it took until all were taken."""
    data = bytes(size)
    connection.send(("take", count, size))
    start = time.perf_counter()
    for _ in range(count):
        connection.send_bytes(data)
    connection.recv_bytes()
    return time.perf_counter() - start


def echo_with(connection, count, size):
    data = bytes(size)
    connection.send(("echo", count, size))
    start = time.perf_counter()
    for _ in range(count):
        connection.send_bytes(data)
        connection.recv_bytes()
    return time.perf_counter() - start


def serve(listener):
    connection = listener.accept()
    while True:
        what, count, size = connection.recv()
        if what == "end":
            break
        if what == "accept":
            for _ in range(count):
                listener.accept().close()
        else:
            globals()[what](connection, count, size)


def call(address):
    connection = Client(address, authkey=KEY)
    for line in sys.stdin:
        what, count, size = ast.literal_eval(line)
        if what == "accept":
            connection.send(("accept", count, size))
            start = time.perf_counter()
            for _ in range(count):
                Client(address, authkey=KEY).close()
            seconds = time.perf_counter() - start
        else:
            seconds = globals()[what](connection, count, size)
        print(seconds, flush=True)
    connection.send(("end", 0, 0))


if sys.argv[1] == "listen":
    listener = Listener(family="AF_UNIX", backlog=16, authkey=KEY)
    print(repr(listener.address), flush=True)
    serve(listener)
else:
    call(ast.literal_eval(sys.argv[2]))
