"""CPython's end of the interop tests: `peer.py serve FAMILY KEY` prints its address and accepts one
Client, `peer.py call ADDRESS KEY` calls a Listener; an empty KEY is none. Then it does what it is
told, a message at a time, until it is told "stop". What goes wrong is printed, as Python names it."""

import ast
import hashlib
import os
import struct
import sys
from multiprocessing import Pipe, current_process, resource_sharer
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.managers import SyncManager
from multiprocessing.reduction import ForkingPickler


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


taken = []  # Connections that came
given = []  # the other ends of those that went


def authkey(connection, key):
    current_process().authkey = key


def take(connection):
    """Takes a Connection, and says what it is."""
    try:
        taken.append(connection.recv())
        each = taken[-1]
        connection.send((type(each).__name__, each.readable, each.writable))
    except Exception as error:
        connection.send((type(error).__name__, str(error), None))


def take_with_two_keys(connection, wrong):
    """Takes a Connection with a wrong key, which fails, and then with its own."""
    message = connection.recv_bytes()
    right = current_process().authkey
    current_process().authkey = wrong
    try:
        ForkingPickler.loads(message)
    except Exception as error:
        connection.send(type(error).__name__)
    current_process().authkey = right
    taken.append(ForkingPickler.loads(message))


def talk(connection, count):
    """Echoes over the Connection that was taken last."""
    for _ in range(count):
        taken[-1].send(taken[-1].recv())


def tell(connection, *values):
    for value in values:
        taken[-1].send(value)
    taken.pop().close()


def ask(connection, count):
    connection.send([taken[-1].recv() for _ in range(count)])
    taken.pop().close()


def socket_pair(family):
    listener = Listener(family=family)
    client = Client(listener.address)
    return client, listener.accept()


def give(connection, what, *args, times=1):
    """Sends one end of a pair, alone or so many times, and closes it here."""
    here, there = socket_pair(*args) if what == "socket" else Pipe(*args)
    if what == "sender":
        here, there = there, here
    given.append(there)
    message = bytes(ForkingPickler.dumps(here))
    for _ in range(times):
        connection.send_bytes(message)
    here.close()


def give_twice(connection):
    give(connection, "socket", "AF_UNIX", times=2)


def give_many(connection, count):
    ends = [Pipe() for _ in range(count)]
    connection.send({"ends": [here for here, _ in ends]})
    for here, there in ends:
        here.close()
        given.append(there)


def give_and_stop(connection):
    give(connection, "socket", "AF_UNIX")
    resource_sharer.stop()


def give_and_die(connection, folder):
    current_process()._config["tempdir"] = folder  # somebody else tidies up
    give(connection, "socket", "AF_UNIX")
    os._exit(0)


def give_what(connection):
    """Sends what is no Connection as if it were one."""
    message = bytes(ForkingPickler.dumps(Connection(os.open("/dev/null", os.O_RDONLY))))
    connection.send_bytes(message)


def serve_given(connection):
    """Echoes at the other end of the last one, to its end."""
    there = given.pop()
    try:
        while True:
            there.send(there.recv())
    except EOFError:
        there.close()


def tell_given(connection, *values):
    for value in values:
        given[-1].send(value)
    given.pop().close()


def ask_given(connection):
    values = []
    try:
        while True:
            values.append(given[-1].recv())
    except EOFError:
        connection.send(values)


def give_proxy(connection):
    manager = SyncManager(authkey=current_process().authkey)
    manager.start()
    proxy = manager.list([1, 2, 3])
    connection.send(proxy)
    connection.recv()
    connection.send(list(proxy))
    manager.shutdown()


def main():
    mode, where, key = sys.argv[1:]
    key = key.encode() or None
    current_process().authkey = b"the program's"
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
