"""Python's documentation, "Using a remote manager": the three programs, as remote_queue.cpp's."""
import sys
from multiprocessing.managers import BaseManager
from queue import Queue


class QueueManager(BaseManager):
    pass


def main():
    what, address = sys.argv[1], (sys.argv[2], int(sys.argv[3]))
    if what == "serve":
        queue = Queue()
        QueueManager.register("get_queue", callable=lambda: queue)
        server = QueueManager(address=address, authkey=b"abracadabra").get_server()
        print("serving at", server.address, flush=True)
        server.serve_forever()
        return
    QueueManager.register("get_queue")
    m = QueueManager(address=address, authkey=b"abracadabra")
    m.connect()
    queue = m.get_queue()
    if what == "put":
        queue.put(sys.argv[4])
    else:
        print(queue.get())


if __name__ == "__main__":
    main()
