"""The remote queue example between two hosts: two network namespaces with a wire between them.

    two_hosts_test.py EXAMPLE

The second host also has a name and, but in a chroot, where /proc cannot be mounted anew, processes of
its own. Needs root, or a kernel that lets users make namespaces; the status is 77, with the reason,
where neither is so."""
import os
import subprocess
import sys

PYTHON = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "remote_queue.py")]
PROCESSES = ["--pid", "--fork", "--kill-child", "--mount-proc"]
HERE, THERE, PORT = "10.99.0.10", "10.99.0.11", "50000"


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def apart():
    """This program again, in namespaces of its own; its network is the first host's."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    wire = "ip link add one type veth peer name two"
    for processes in PROCESSES, []:
        wanted = ["unshare", *user, "--net", *processes]
        probe = subprocess.run([*wanted, "sh", "-c", wire], capture_output=True, text=True)
        if probe.returncode == 0:
            os.execvp(wanted[0], [*wanted, sys.executable, *sys.argv, "apart", *processes])
    print("not tried: no two networks here:", probe.stderr.strip())
    sys.exit(77)


class Host:
    """The other one: a process that waits in its namespaces."""

    def __init__(self, processes):
        self.own = ["--net", "--uts", *(["--pid", "--mount"] if processes else [])]
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--uts", *processes, "sh", "-c", "hostname there; echo ready; exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n"
        self.pid = str(self.holder.pid)
        if processes:
            with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as children:
                self.pid = children.read().split()[0]
        run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", self.pid)
        for prefix, address in ([], HERE), (self.inside(), THERE):
            run(*prefix, "ip", "link", "set", "lo", "up")
            run(*prefix, "ip", "address", "add", address + "/24", "dev", "wire")
            run(*prefix, "ip", "link", "set", "wire", "up")

    def inside(self):
        return ["nsenter", "--target", self.pid, *self.own]

    def end(self):
        self.holder.stdin.close()
        self.holder.wait()


def meet(server, client, there):
    """`server` here, `client` there: what the one puts the other gets, whoever comes first."""
    where = [*there.inside(), *client]
    with subprocess.Popen([*server, "serve", HERE, PORT], stdout=subprocess.PIPE, text=True) as serving:
        try:
            line = serving.stdout.readline()
            assert line.startswith("serving at"), line
            for text in ["hello"], ["x" * 100_000], ["one", "two"]:
                for each in text:
                    run(*where, "put", HERE, PORT, each)
                for each in text:
                    assert run(*where, "get", HERE, PORT) == each + "\n", each[:10]
            waiting = subprocess.Popen([*where, "get", HERE, PORT], stdout=subprocess.PIPE, text=True)
            run(*client, "put", HERE, PORT, "from the server's host")
            assert waiting.communicate()[0] == "from the server's host\n"
        finally:
            serving.kill()


def main():
    if sys.argv[2:3] != ["apart"]:
        apart()
    example = [os.path.abspath(sys.argv[1])]
    there = Host(sys.argv[3:])
    meetings = [(example, example), (example, PYTHON), (PYTHON, example)]
    for server, client in meetings:
        meet(server, client, there)
    there.end()
    print("two hosts:", len(meetings), "meetings")


if __name__ == "__main__":
    main()
