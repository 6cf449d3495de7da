#!/usr/bin/env python3
"""Lets every system call and allocation of a program fail once, or kills it there, and judges what came of it.

    sweep.py PROGRAM [SCENARIO...] [--mode error|kill|missing|allocation] [--calls NAME,...] [--most N]
             [--limit SECONDS] [--jobs N] [--only CASE] [--repeat N]

PROGRAM SCENARIO is run in a box: namespaces of its own for processes, mounts and the network, an empty
/dev/shm and folder for temporary files. A first run counts what each of its threads and processes does
once main() has begun. Then it is run again for each of
  error       system call, number of the call and errno of ERRORS: strace lets that one call fail, in
              every thread and process that comes so far
  kill        system call and number: the program's first process, and only that one, gets SIGKILL there
  missing     system call of MISSING that it makes: always ENOSYS, as on an older kernel
  allocation  number of an operator new: std::bad_alloc
`--most`: at most so many numbers, spread evenly (5 when MILLRACE_STRESS=full, else 3).

Bad are a run that does not end in time, one ended by a signal, a wrong result, a failure without a
word, and whatever is left of it two seconds later: processes, segments, folders, sockets.
Exit status 1 if there is any, 77 where no box can be made.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

# What may be said of a call that is right in itself. Not here: what only a broken kernel says, such
# as of a futex() that wakes, and unlink(), without which nothing can be tidied up.
ERRORS = {
    'accept4': 'ECONNABORTED EMFILE EINTR', 'bind': 'EADDRINUSE EACCES', 'chmod': 'EPERM',
    'clock_nanosleep': 'EINTR', 'clone': 'EAGAIN ENOMEM', 'clone3': 'EAGAIN ENOSYS',
    'connect': 'ECONNREFUSED EINTR EAGAIN', 'dup': 'EMFILE', 'dup2': 'EMFILE', 'dup3': 'EMFILE',
    'epoll_create1': 'EMFILE', 'epoll_ctl': 'ENOSPC', 'epoll_pwait': 'EINTR', 'epoll_wait': 'EINTR',
    'eventfd2': 'EMFILE', 'execve': 'ENOENT ENOMEM', 'fallocate': 'ENOSPC EINTR EOPNOTSUPP',
    'fchmod': 'EPERM', 'flock': 'ENOLCK', 'ftruncate': 'ENOSPC EIO', 'get_mempolicy': 'EPERM',
    'getdents64': 'EIO', 'getrandom': 'EINTR ENOSYS', 'getsockopt': 'ENOPROTOOPT', 'kill': 'EPERM',
    'listen': 'EADDRINUSE', 'madvise': 'EINVAL ENOMEM', 'mbind': 'EPERM', 'memfd_create': 'EMFILE ENOMEM',
    'mkdir': 'ENOSPC EACCES', 'mmap': 'ENOMEM', 'move_pages': 'EPERM', 'mprotect': 'ENOMEM',
    'munmap': 'ENOMEM', 'openat': 'EMFILE ENFILE EACCES', 'pidfd_getfd': 'EPERM',
    'pidfd_open': 'EMFILE', 'pidfd_send_signal': 'EPERM', 'pipe2': 'EMFILE', 'poll': 'EINTR',
    'ppoll': 'EINTR', 'prctl': 'EINVAL', 'prlimit64': 'EPERM', 'process_vm_readv': 'EPERM',
    'read': 'EINTR EIO', 'readlink': 'EACCES', 'recvfrom': 'ECONNRESET EINTR',
    'recvmsg': 'ECONNRESET EINTR', 'sched_getaffinity': 'EINVAL', 'sched_setaffinity': 'EINVAL EPERM',
    'sendmsg': 'EAGAIN EINTR ETOOMANYREFS', 'sendto': 'EPIPE EINTR', 'set_mempolicy': 'EPERM',
    'setsockopt': 'ENOPROTOOPT ENOMEM', 'shutdown': 'ENOTCONN', 'signalfd4': 'EMFILE',
    'socket': 'EMFILE EAFNOSUPPORT', 'socketpair': 'EMFILE ENFILE', 'timer_create': 'EAGAIN',
    'vfork': 'EAGAIN', 'wait4': 'EINTR', 'waitid': 'EINTR', 'write': 'EINTR ENOSPC EPIPE',
}
MISSING = ['futex_waitv', 'get_mempolicy', 'mbind', 'membarrier', 'memfd_create', 'move_pages',
           'pidfd_getfd', 'pidfd_open', 'pidfd_send_signal', 'process_vm_readv', 'process_vm_writev',
           'rseq', 'set_mempolicy', 'statx']
NEVER_KILLED = {'exit', 'exit_group', 'rt_sigreturn'}


class Box:
    """Process 1 of the namespaces that the program runs in."""

    def __init__(self, order):
        self.folder = order['folder']
        self.end = time.monotonic() + order['limit']
        for place in ('/dev/shm', self.folder):
            subprocess.run(['mount', '-t', 'tmpfs', '-o', 'mode=1777', 'box', place], check=True)
        subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
        env = dict(os.environ, TMPDIR=self.folder, **order['env'])
        if order['strace'] is not None:
            env['FAULTS_WAIT'] = '1'
        self.said = tempfile.TemporaryFile(dir='/dev/shm')  # without a name
        self.program = subprocess.Popen(order['command'], env=env, stdin=subprocess.DEVNULL,
                                        stdout=self.said, stderr=self.said)
        self.strace = None
        if order['strace'] is not None:
            self.attach(order['strace'])

    def attach(self, options):
        os.waitpid(self.program.pid, os.WUNTRACED)
        self.strace = subprocess.Popen(['strace', '-qq', '-p', str(self.program.pid), *options],
                                       stderr=subprocess.DEVNULL)
        while 'TracerPid:\t0' in read(f'/proc/{self.program.pid}/status'):
            if self.strace.poll() is not None:
                raise RuntimeError('strace cannot attach')
            time.sleep(0.001)
        os.kill(self.program.pid, signal.SIGCONT)

    def watch(self):
        """What came of it: an exit status, or what hung; what was left; what it said."""
        status = None
        hung = []
        while status is None and not hung:
            pid, ended = os.waitpid(-1, os.WNOHANG)
            if pid == self.program.pid:
                status = os.waitstatus_to_exitcode(ended)
            elif self.strace is not None and pid == self.strace.pid:
                self.strace = None
            elif pid == 0:
                if time.monotonic() > self.end:
                    hung = [describe(other) for other in self.others()] or ['nobody']
                    os.kill(-1, signal.SIGKILL)
                time.sleep(0.002)
        left = [] if hung else self.left()
        if left and status == -signal.SIGKILL and all(name.startswith('millrace-') for name in left):
            # The folder of a socket, which the next of this user removes.
            env = dict(os.environ, TMPDIR=self.folder)
            subprocess.run(self.program.args, env=env, stdout=self.said, stderr=self.said, check=False)
            left = self.left()
        self.said.seek(0)
        said = self.said.read().decode(errors='replace')
        why = [line for line in said.splitlines() if line[:5] in ('ERROR', 'WRONG')]
        return {'status': status, 'hung': hung, 'left': left, 'why': why, 'said': said[-20000:]}

    def left(self):
        end = time.monotonic() + 2
        while True:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
            left = os.listdir('/dev/shm') + os.listdir(self.folder)
            left += [describe(other) for other in self.others()]
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.01)

    def others(self):
        tracer = self.strace.pid if self.strace is not None else 0
        return [int(name) for name in os.listdir('/proc')
                if name.isdigit() and name not in ('1', str(tracer))]


def read(path):
    try:
        with open(path, 'rb') as file:
            return file.read().decode(errors='replace')
    except OSError:
        return ''


def describe(pid):
    """Its command, and what its threads wait in."""
    command = read(f'/proc/{pid}/cmdline').replace('\0', ' ').strip()
    try:
        threads = os.listdir(f'/proc/{pid}/task')
    except OSError:
        threads = []
    waits = ','.join(read(f'/proc/{pid}/task/{thread}/wchan') for thread in threads)
    return f'{pid} {command[-40:]} in {waits}'


class Sweep:
    def __init__(self, args):
        self.args = args

    def boxed(self, scenario, limit, strace=None, env=None):
        """Runs it in a box of its own; what came of it."""
        args = self.args
        order = {'command': [args.program, scenario], 'strace': strace, 'env': env or {},
                 'limit': limit, 'folder': args.folder}
        rights = [] if os.geteuid() == 0 else ['-r']
        done = subprocess.run(
            ['unshare', *rights, '-pfmn', '--kill-child', '--mount-proc', sys.executable, __file__,
             '--box', json.dumps(order), '-'],
            stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode(errors='replace'))
        return json.loads(done.stdout)

    def count(self, scenario):
        """The most calls of each name that one thread or process makes; of allocations all."""
        mode = self.args.mode
        with tempfile.TemporaryDirectory() as folder:
            strace = None
            if mode != 'allocation':
                strace = ['-o', folder + '/t', *(['-ff'] if mode != 'kill' else [])]
            came = self.boxed(scenario, 60, strace, {'FAULTS_ALLOCATION': '-1'})
            if came['status'] != 0 or came['left']:
                sys.exit(f'{scenario} without a fault: {came}')
            if mode == 'allocation':
                return {'new': int(came['said'].split()[-1])}
            most = collections.Counter()
            for name in os.listdir(folder):
                calls = re.findall(r'^([a-z_0-9]+)\(', read(f'{folder}/{name}'), re.MULTILINE)
                for call, count in collections.Counter(calls).items():
                    most[call] = max(most[call], count)
            return most

    def cases(self, scenario):
        """(scenario, what, number, how) of each run."""
        mode = self.args.mode
        only = set(self.args.calls.split(',')) - {''}
        for call, count in sorted(self.count(scenario).items()):
            if only and call not in only:
                continue
            numbers = spread(count, self.args.most)
            if mode == 'missing':
                yield from [(scenario, call, 0, 'ENOSYS')] if call in MISSING else []
            elif mode == 'error':
                for error in ERRORS.get(call, '').split():
                    yield from ((scenario, call, number, error) for number in numbers)
            elif call not in NEVER_KILLED:
                yield from ((scenario, call, number, mode) for number in numbers)

    def run(self, case):
        scenario, call, number, how = case
        limit = self.args.limit
        if how == 'allocation':
            came = self.boxed(scenario, limit, env={'FAULTS_ALLOCATION': str(number)})
        else:
            fault = 'signal=KILL' if how == 'kill' else 'error=' + how
            when = f':when={number}' if number else ''
            inject = ['-o', '/dev/null', '-e', f'trace={call}', '-e', f'inject={call}:{fault}{when}']
            came = self.boxed(scenario, limit, inject if how == 'kill' else ['-f', *inject])
        return case, came, judge(case, came)

    def sweep(self, scenario, crew):
        """Runs all cases of a scenario; how many there were, and how many were bad."""
        cases = list(self.cases(scenario))
        if self.args.only:
            cases = [case for case in cases if ':'.join(map(str, case[1:])) in self.args.only.split()]
        cases *= self.args.repeat
        bad = 0
        ends = collections.Counter()
        for case, came, complaints in crew.map(self.run, cases):
            ends['worked' if came['status'] == 0 else 'said why' if came['status'] == 3 else 'ended'] += 1
            if complaints or self.args.verbose:
                print(*case, came['status'], *complaints, '|', *came['why'][:1], flush=True)
                if came['status'] == -signal.SIGABRT:
                    print(came['said'][-4000:], flush=True)
            bad += bool(complaints)
        told = ', '.join(f'{count} {end}' for end, count in sorted(ends.items()))
        print(f'{scenario} ({self.args.mode}): {len(cases)} faults ({told}), {bad} bad', flush=True)
        return bad


def spread(count, most):
    if count <= most:
        return range(1, count + 1)
    return sorted({1 + i * (count - 1) // (most - 1) for i in range(most)})


def judge(case, came):
    """What is wrong with what came of a run."""
    if came['hung']:
        return ['HANG: ' + '; '.join(came['hung'])]
    complaints = ['LEFT: ' + '; '.join(came['left'])] if came['left'] else []
    status = came['status']
    if status < 0 and not (case[3] == 'kill' and status == -signal.SIGKILL):
        complaints.append('DIED of ' + signal.Signals(-status).name)
    elif status >= 0 and status not in (0, 3):
        complaints.append(f'STATUS {status}')
    if status == 3 and not came['why'] and case[1] != 'write':
        complaints.append('no word')
    return complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('program')
    parser.add_argument('scenarios', nargs='*')
    parser.add_argument('--mode', choices=['error', 'kill', 'missing', 'allocation'], default='error')
    parser.add_argument('--calls', default='')
    parser.add_argument('--most', type=int,
                        default=3 if os.environ.get('MILLRACE_STRESS', 'quick') == 'quick' else 5)
    parser.add_argument('--limit', type=float, default=20)
    parser.add_argument('--jobs', type=int, default=os.cpu_count() + 1)
    parser.add_argument('--only', default='', help='cases such as "read:3:EIO"')
    parser.add_argument('--repeat', type=int, default=1)
    parser.add_argument('--verbose', action='store_true')
    parser.add_argument('--folder', default='/mnt', help='where the box has its temporary files')
    parser.add_argument('--box', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.box:
        print(json.dumps(Box(json.loads(args.box)).watch()))
        return 0
    sweep = Sweep(args)
    if shutil.which('strace') is None:
        print('skipped: there is no strace')
        return 77
    names = args.scenarios or subprocess.run([args.program], capture_output=True, text=True,
                                             check=True).stdout.split()
    try:
        sweep.boxed(names[0], 60, [])
    except RuntimeError as error:
        print(f'skipped: no box can be made here: {error}')
        return 77
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as crew:
        bad = sum(sweep.sweep(name, crew) for name in names)
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
