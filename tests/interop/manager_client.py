"""CPython as the client of a millrace manager: every method of every proxy, X11. Argument: the
address, a path or host:port. Any failure is an uncaught exception."""
import gc
import multiprocessing
import queue
import sys
import threading
from array import array
from multiprocessing.managers import BaseManager, MakeProxyType, RemoteError, SyncManager

KEY = b"abracadabra"


def raises(kind, call, *args, **kwds):
    try:
        call(*args, **kwds)
    except kind:
        return
    raise AssertionError("%r did not raise %r" % (call, kind))


def equal(a, b):
    assert a == b, (a, b)


def check_list(m):
    l = m.list([3, 1, 2])
    equal(str(l), "[3, 1, 2]")
    assert repr(l).startswith("<ListProxy object, typeid 'list' at 0x"), repr(l)
    l.sort()
    l.append(4)
    l.extend((5, 6))
    l.insert(0, 0)
    equal(l[:], [0, 1, 2, 3, 4, 5, 6])
    equal(l[1:6:2], [1, 3, 5])
    equal(l[-1], 6)
    l[0] = "x"
    l[1:3] = "ab"
    equal(l._getvalue(), ["x", "a", "b", 3, 4, 5, 6])
    del l[0]
    del l[4:]
    equal(list(l), ["a", "b", 3, 4])
    equal(l.pop(), 4)
    equal(l.pop(0), "a")
    l.remove("b")
    equal(l.count(3), 1)
    equal(l.index(3), 0)
    equal(3 in l, True)
    equal(len(l), 1)
    l += [7]
    l *= 2
    equal(l[:], [3, 7, 3, 7])
    equal(l + [1], [3, 7, 3, 7, 1])
    equal(l * 2, [3, 7, 3, 7] * 2)
    equal(2 * l, [3, 7, 3, 7] * 2)
    l.reverse()
    equal(list(reversed(l)), [3, 7, 3, 7])
    l.sort(reverse=True)
    equal(l[:], [7, 7, 3, 3])
    raises(IndexError, lambda: l[9])
    raises(ValueError, l.remove, 100)
    raises(TypeError, lambda: l["a"])
    raises(TypeError, lambda: l[1.0])
    raises(TypeError, lambda: l * 2.0)
    equal((l.index(3, 3), l.index(7, -4, 2)), (3, 0))
    raises(ValueError, l.index, 7, 2)
    raises(TypeError, l.append)
    raises(TypeError, l.insert, "a", 1)
    raises(TypeError, l.extend, 5)
    raises(IndexError, l.pop, 9)
    raises(ValueError, l.__setitem__, slice(0, 4, 2), [1])
    raises(IndexError, m.list().pop)
    raises(TypeError, m.list([1, "a"]).sort)
    raises(RemoteError, l._callmethod, "__class__")
    equal(m.list([1]) == [1], False)


def check_dict(m):
    d = m.dict({"a": 1}, b=2)
    d["c"] = [1, 2.5, None, b"x", (True,), {"k": {1, 2}}]
    equal(d["c"], [1, 2.5, None, b"x", (True,), {"k": {1, 2}}])
    equal(len(d), 3)
    equal("a" in d, True)
    equal(sorted(d), ["a", "b", "c"])
    equal(d.keys(), ["a", "b", "c"])
    equal(d.values()[:2], [1, 2])
    equal(d.items()[0], ("a", 1))
    equal(d.get("z"), None)
    equal(d.get("z", 5), 5)
    equal(d.setdefault("z", 6), 6)
    d.update({"y": 7}, x=8)
    equal(d.popitem(), ("x", 8))
    equal(d.pop("y"), 7)
    equal(d.pop("y", 0), 0)
    del d["z"]
    equal(d.copy(), d._getvalue())
    try:
        d["nothing"]
    except KeyError as error:
        equal(error.args, ("nothing",))
    else:
        raise AssertionError
    raises(KeyError, d.pop, "nothing")
    it = iter(d)
    assert repr(it).startswith("<IteratorProxy object, typeid 'Iterator' at 0x"), repr(it)
    assert str(it).startswith("<dict_keyiterator object at 0x"), str(it)
    equal(next(it), "a")
    d["more"] = 1
    raises(RuntimeError, next, it)
    whole = iter(m.dict(a=1))
    equal(list(whole), ["a"])
    raises(StopIteration, next, whole)
    raises(RemoteError, whole.send, 1)
    raises(RemoteError, whole.throw, ValueError("no"))
    raises(RemoteError, whole.close)
    raises(TypeError, d.__setitem__, [1], 2)
    raises(KeyError, d.__delitem__, "nothing")
    raises(KeyError, m.dict().popitem)
    d.clear()
    equal(str(d), "{}")


class WithSets(SyncManager):
    pass


# As 3.14 has it; managers before know no set.
SET = ("__and__ __contains__ __iand__ __ior__ __isub__ __iter__ __ixor__ __len__ __or__ __rand__ "
       "__ror__ __rsub__ __rxor__ __sub__ __xor__ __ge__ __gt__ __le__ __lt__ add clear copy "
       "difference difference_update discard intersection intersection_update isdisjoint issubset "
       "issuperset pop remove symmetric_difference symmetric_difference_update union update").split()
WithSets.register("set", proxytype=MakeProxyType("SetProxy", SET))


def check_set(address):
    m = WithSets(address=address, authkey=KEY)
    m.connect()
    s = m.set([1, 2, 3])
    equal((len(s), 2 in s, 9 in s), (3, True, False))
    equal(s & {2, 9}, {2})
    equal(s | {9}, {1, 2, 3, 9})
    equal(s - {1}, {2, 3})
    equal(s ^ {1, 9}, {2, 3, 9})
    equal(({2, 9} & s, {9} | s, {1, 9} - s, {1, 9} ^ s), ({2}, {1, 2, 3, 9}, {9}, {2, 3, 9}))
    equal((s >= {1}, s > {1, 2, 3}, s <= {1, 2, 3}, s < {1}), (True, False, True, False))
    s.add(4)
    s.discard(9)
    s.remove(4)
    raises(KeyError, s.remove, 4)
    raises(TypeError, s.add, [1])
    equal(s.copy(), {1, 2, 3})
    equal((s.union([4]), s.difference([1]), s.intersection([1]), s.symmetric_difference([1])),
          ({1, 2, 3, 4}, {2, 3}, {1}, {2, 3}))
    equal((s.isdisjoint([9]), s.issubset([1, 2, 3, 4]), s.issuperset([1])), (True, True, True))
    s.update([4], [5])
    s.difference_update([4])
    s.intersection_update([1, 2, 5])
    s.symmetric_difference_update([5, 6])
    equal(s._getvalue(), {1, 2, 6})
    for method, other, result in (("__ior__", {7}, {1, 2, 6, 7}), ("__iand__", {1, 2}, {1, 2}),
                                  ("__isub__", {2}, {1}), ("__ixor__", {1, 3}, {3})):
        s._callmethod(method, (other,))
        equal(s._getvalue(), result)
    equal((s.pop(), str(s)), (3, "set()"))
    raises(KeyError, s.pop)
    s.update("ab")
    s.clear()
    equal(len(s), 0)


def check_values(m):
    n = m.Namespace(x=1, y="z")
    n.x = 5
    n.w = None
    del n.y
    equal(str(n), "Namespace(w=None, x=5)")
    raises(AttributeError, lambda: n.nothing)
    equal(n._getvalue().x, 5)
    v = m.Value("i", 3)
    v.value = 4
    v.set(v.get() + 1)
    equal(v.value, 5)
    equal(str(v), "Value('i', 5)")
    equal(v._getvalue().value, 5)
    a = m.Array("i", [1, 2, 3])
    a[0] = 9
    equal(a[0], 9)
    equal(len(a), 3)
    equal(list(a[1:]), [2, 3])
    equal(str(a), "array('i', [9, 2, 3])")
    equal(a._getvalue().tolist(), [9, 2, 3])
    raises(IndexError, lambda: a[3])
    raises(TypeError, lambda: a["x"])
    raises(OverflowError, a.__setitem__, 0, 2 ** 31)
    raises(TypeError, a.__setitem__, 0, 1.5)
    equal(str(m.Array("u", "ab")), "array('u', 'ab')")
    equal(m.Array("u", "ab")._getvalue().tounicode(), "ab")
    equal(m.Array("d", [1.5])[:].tolist(), [1.5])
    equal(m.Array("h", b"\1\0\2\0")._getvalue().tolist(), [1, 2])
    equal(m.Array("f", bytearray(array("f", [2.5]).tobytes()))._getvalue().tolist(), [2.5])
    raises(RemoteError, m.Array, "i", b"three")
    raises(RemoteError, m.Array, "i", "")
    equal(str(m.Value(None, 1)), "Value(None, 1)")
    with_many = m.Namespace(a=[1], b=m.list([2]))
    equal((with_many.a, with_many.b[:]), ([1], [2]))
    raises(AttributeError, n.__delattr__, "nothing")


def check_locks(m):
    for lock in (m.Lock(), m.RLock(), m.Semaphore(1), m.BoundedSemaphore(1)):
        equal(lock.acquire(), True)
        got = []
        other = threading.Thread(target=lambda: got.append(lock.acquire(False)))
        other.start()
        other.join()
        equal(got, [False])
        equal(lock.release(), None)
        with lock:
            pass
    raises(RuntimeError, m.Lock().release)
    raises(RuntimeError, m.RLock().release)
    raises(ValueError, m.BoundedSemaphore(1).release)
    equal(m.Lock().acquire(True, 0.01), True)
    equal(m.Lock().acquire(True, -1), True)
    raises(ValueError, m.Lock().acquire, True, -5)
    raises(ValueError, m.Lock().acquire, False, 1)
    raises(ValueError, m.Lock().acquire, True, float("nan"))
    raises(OverflowError, m.Lock().acquire, True, float("inf"))
    equal(m.Semaphore(0).acquire(True, -1), False)
    raises(RemoteError, m.Semaphore, -1)
    c = m.Condition(m.Lock())
    raises(RuntimeError, c.notify)
    with c:
        equal(c.wait(0.01), False)
        c.notify()
        c.notify_all()
    ready = []
    with c:
        def fill():
            with c:
                ready.append(1)
                c.notify()
        thread = threading.Thread(target=fill)
        thread.start()
        equal(c.wait_for(lambda: ready, 60), [1])
    thread.join()
    e = m.Event()
    equal(e.is_set(), False)
    equal(e.wait(0.01), False)
    e.set()
    equal(e.wait(), True)
    e.clear()
    b = m.Barrier(2)
    sums = []
    thread = threading.Thread(target=lambda: sums.append(b.wait()))
    thread.start()
    sums.append(b.wait())
    thread.join()
    equal(sorted(sums), [0, 1])
    equal((b.parties, b.n_waiting, b.broken), (2, 0, False))
    raises(threading.BrokenBarrierError, b.wait, 0.01)
    equal(b.broken, True)
    b.reset()
    b.abort()
    raises(threading.BrokenBarrierError, b.wait)


def check_queue(m):
    for q in (m.Queue(2), m.JoinableQueue(2)):
        q.put(1)
        q.put([2], timeout=1)
        equal((q.qsize(), q.full(), q.empty()), (2, True, False))
        raises(queue.Full, q.put_nowait, 3)
        raises(queue.Full, q.put, 3, True, 0.01)
        equal(q.get(), 1)
        equal(q.get(timeout=1), [2])
        raises(queue.Empty, q.get_nowait)
        raises(queue.Empty, q.get, True, 0.01)
        q.task_done()
        q.task_done()
        q.join()
        raises(ValueError, q.task_done)


def check_nesting(m):
    inner = m.list([1])
    outer = m.list([inner])
    dicts = m.dict(l=inner)
    inner.append(2)
    equal(outer[0][:], [1, 2])
    dicts["l"].append(3)
    equal(inner[:], [1, 2, 3])
    outer.append(m.dict(a=1))
    equal(outer[1]["a"], 1)
    equal(outer.pop()["a"], 1)  # nobody else has it
    q = m.Queue()
    q.put(m.list([4]))
    equal(q.get()[:], [4])
    dicts["m"] = m.list([5])
    equal(dicts.popitem()[1][:], [5])
    n = m.Namespace(l=m.list([6]))
    equal(n.l[:], [6])
    v = m.Value("i", m.list([7]))
    equal(v.value[:], [7])
    equal(m.list(inner)[:], [1, 2, 3])
    dicts.update(m.dict(z=8))
    equal(dicts["z"], 8)


def check_pool(m):
    raises(RemoteError, m.Pool, 0)
    p = m.Pool(1)
    for call in (p.apply, p.apply_async):  # Python's code means nothing there
        raises(RemoteError, call, abs, (-1,))
    for call in (p.map, p.map_async, p.imap, p.imap_unordered, p.starmap, p.starmap_async):
        raises(RemoteError, call, abs, [-1])
    raises(TypeError, p.map)
    with m.Pool(1) as other:
        raises(ValueError, other.join)
    other.join()  # it was terminated
    raises(ValueError, p.join)
    p.close()
    p.join()
    p.terminate()


class Custom(BaseManager):
    pass


Custom.register("Maths")
Custom.register("shared_queue")


def check_custom(address):
    m = Custom(address=address, authkey=KEY)
    m.connect()
    maths = m.Maths()
    equal(maths.add(4, 3), 7)
    equal(maths.mul(7, 8), 56)
    equal(maths.twice(4), 8)
    raises(ValueError, maths.fail)
    raises(TypeError, maths.add, 1)
    raises(RemoteError, maths._callmethod, "secret")
    m.shared_queue().put("hello")
    equal(m.shared_queue().get(), "hello")


def main():
    host, _, port = sys.argv[1].rpartition(":")
    address = (host, int(port)) if host else sys.argv[1]
    multiprocessing.current_process().authkey = KEY  # proxies inside values are told no key
    m = SyncManager(address=address, authkey=KEY)
    m.connect()
    checks = (check_list, check_dict, check_values, check_locks, check_pool, check_queue,
              check_nesting)
    for check in checks[-2:] if host else checks:  # over TCP each connection costs CPython 40 ms
        check(m)
    check_custom(address)
    check_set(address)
    bad = SyncManager(address=address, authkey=b"wrong")
    raises(Exception, bad.connect)
    gc.collect()
    equal(m._number_of_objects(), 1)  # the one that its parent keeps
    equal("refcount" in m._debug_info(), True)


if __name__ == "__main__":
    main()
