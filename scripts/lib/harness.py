"""What the measuring scripts share: building, processes and their cost, an rsync daemon on a fresh tmpfs, percentiles."""

import ctypes
import fcntl
import json
import os
import platform
import queue
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

# The arguments fansync itself uses for a batch, without those of the network.
BATCH = ["-lptgoD", "--numeric-ids", "--from0", "--files-from=-", "--delete-missing-args", "--force", "--modify-window=-1"]
# The root of the repository.
HERE = Path(__file__).resolve().parent.parent.parent
TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Something without which there are no figures."""


def build(*extra):
    """Builds the release binary as whoever called and gives its path."""
    script = 'set -euo pipefail; cd "$1"; . scripts/lib/common.sh; need_cargo; shift; as_caller cargo build --release --bin fansync' \
             ' --message-format=json-render-diagnostics "$@"'
    out = subprocess.run(["bash", "-c", script, "-", str(HERE), *extra], check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in out.splitlines():
        if line.startswith("{"):
            message = json.loads(line)
            if message.get("executable") and message.get("target", {}).get("name") == "fansync":
                return message["executable"]
    raise Failed("cargo did not say where it put the binary: " + out[-300:])


class Stat:
    """The parts of /proc/PID/stat that count here."""

    def __init__(self, pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.parent = int(fields[1])
        own, reaped = (sum(map(int, fields[at : at + 2])) for at in (11, 13))
        self.own, self.with_reaped = own / TICK, (own + reaped) / TICK


def family(pid):
    """A process and all its descendants that live, each with its Stat."""
    stats = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stats[int(entry)] = Stat(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                pass
    members, grew = {pid}, True
    while grew:
        more = {p for p, s in stats.items() if s.parent in members} - members
        members |= more
        grew = bool(more)
    return {p: stats[p] for p in members if p in stats}


def family_cpu(pid):
    """CPU seconds of a process, of its children that have ended, and of all its descendants that live."""
    return sum(stat.with_reaped for stat in family(pid).values())


def memory_kib(pid, field="VmRSS"):
    """`VmRSS`, now, or `VmHWM`, the most so far, of one process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise Failed(f"the memory of process {pid} cannot be read")


def eventually(what, condition, seconds=180.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise Failed(f"{what}: not after {seconds:.0f} seconds")


def end_process(child, patience=20.0):
    """Ends a child that leads a session of its own, with all it started there."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def free_port():
    """Below the ports the kernel hands out, so that no outgoing connection sits on it."""
    while True:
        port = random.randrange(20000, 32000)
        if not accepts(port):
            return port


class Arena:
    """A fresh tmpfs with an rsync daemon on 127.0.0.1 that exports directories of it; use as a context."""

    def __init__(self, name, modules, tuned=True):
        """`tuned`: the server sends small answers at once (TCP_NODELAY), which one that nobody set up does not."""
        self.modules = modules
        self.tuned = tuned
        self.work = Path(tempfile.mkdtemp(prefix=f"fansync-{name}.", dir="/tmp"))
        self.mounted = False
        self.server = None
        self.port = 0

    def __enter__(self):
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60%,nr_inodes=0,mode=700", "tmpfs", self.work], check=True)
            self.mounted = True
            for name in self.modules:
                (self.work / name).mkdir()
            self.serve()
        except BaseException:
            self.__exit__()
            raise
        return self

    def serve(self):
        config = "socket options = TCP_NODELAY\n" if self.tuned else ""
        config += (
            "address = 127.0.0.1\nreverse lookup = no\nuse chroot = yes\nmunge symlinks = no\n"
            "numeric ids = yes\nuid = root\ngid = root\nread only = no\n"
        )
        config += "".join(f"[{name}]\npath = {self.work}/{name}\n" for name in self.modules)
        (self.work / "rsyncd.conf").write_text(config)
        for _ in range(10):
            self.port = free_port()
            if self.serve_again():
                return
        raise Failed("no rsync daemon would start")

    def serve_again(self):
        """Starts the rsync daemon on the port it had."""
        command = ["rsync", "--daemon", "--no-detach", f"--port={self.port}", f"--config={self.work}/rsyncd.conf"]
        self.server = subprocess.Popen(command + [f"--log-file={self.log()}"], start_new_session=True)
        eventually("an rsync daemon", lambda: accepts(self.port) or self.server.poll() is not None)
        return self.server.poll() is None

    def log(self):
        return self.work / "rsyncd.log"

    def url(self, module):
        return f"rsync://127.0.0.1:{self.port}/{module}"

    def __exit__(self, *_):
        if self.server:
            end_process(self.server, 1.0)
        if self.mounted:
            subprocess.run(["umount", "-l", self.work], check=False)
        self.work.rmdir()


class Nats:
    """A nats-server with JetStream on 127.0.0.1; its files go below `work`."""

    def __init__(self, work):
        self.work, self.child = work, None
        for _ in range(10):
            self.port = free_port()
            (work / "nats.conf").write_text(f'listen: 127.0.0.1:{self.port}\njetstream {{ store_dir: "{work}/jetstream" }}\n')
            if self.start():
                return
        raise Failed("no nats-server would start")

    def start(self):
        with open(self.work / "nats.log", "ab") as log:
            self.child = subprocess.Popen(["nats-server", "-c", self.work / "nats.conf"], stdout=log, stderr=log, start_new_session=True)
        eventually("a nats-server", lambda: accepts(self.port) or self.child.poll() is not None)
        return self.child.poll() is None

    def url(self):
        return f"nats://127.0.0.1:{self.port}"

    def stop(self):
        if self.child:
            end_process(self.child, 5.0)


class Fansync:
    """A running `fansync mirror` and the questions it answers."""

    def __init__(self, program, log, socket_path, arguments):
        self.program, self.log, self.socket = program, log, str(socket_path)
        command = [program, "mirror", "--socket", self.socket, *arguments]
        with open(log, "wb") as out:
            self.child = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        self.pid = self.child.pid

    def status(self):
        command = [self.program, "status", "--json", "--socket", self.socket]
        out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return json.loads(out.stdout)["mirrors"][0] if out.returncode == 0 else None

    def ready(self):
        if self.child.poll() is not None:
            raise Failed("fansync ended: " + Path(self.log).read_text(errors="replace")[-2000:])
        status = self.status()
        return status and status["ready"] and status["initial"] != "running"

    def flush(self):
        command = [self.program, "flush", "--timeout", "300s", "--socket", self.socket]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def stop(self):
        end_process(self.child)


def drain(path):
    """Hears of all that fansync hears of on a filesystem, every 2 ms, and does nothing with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    report_names, nonblock, unlimited = 0xC00, 0x2, 0x10  # FAN_REPORT_DFID_NAME, FAN_NONBLOCK, FAN_UNLIMITED_QUEUE
    add, whole_filesystem = 0x1, 0x100
    mask = 0x4 | 0x8 | 0x100 | 0x200 | 0x10000000 | 0x40000000  # ATTRIB, CLOSE_WRITE, CREATE, DELETE, RENAME, ONDIR
    group = libc.fanotify_init(report_names | nonblock | unlimited, os.O_RDONLY)
    if group < 0 or libc.fanotify_mark(group, add | whole_filesystem, ctypes.c_uint64(mask), -100, os.fsencode(path)):
        raise Failed(f"cannot hear of changes to {path}: {os.strerror(ctypes.get_errno())}")
    while True:
        try:
            os.read(group, 1 << 18)
        except BlockingIOError:
            time.sleep(0.002)


class Relay:
    """A port that leads to another, and hands each byte on so many seconds later, both ways; use as a context."""

    def __init__(self, to, delay):
        self.to, self.delay = to, delay
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def __enter__(self):
        self.child = os.fork()
        if self.child == 0:
            try:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
                self.serve()
            finally:
                os._exit(1)
        self.listener.close()
        return self

    def __exit__(self, *_):
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)

    def serve(self):
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(("127.0.0.1", self.to))
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((near, far), (far, near)):
                late = queue.Queue()
                threading.Thread(target=self.take, args=(source, late), daemon=True).start()
                threading.Thread(target=self.give, args=(sink, late), daemon=True).start()

    def take(self, source, late):
        while True:
            try:
                got = source.recv(1 << 18)
            except OSError:
                got = b""
            late.put((time.monotonic() + self.delay, got))
            if not got:
                return

    def give(self, sink, late):
        try:
            while True:
                due, got = late.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not got:
                    return sink.shutdown(socket.SHUT_WR)
                sink.sendall(got)
        except OSError:
            pass  # the other end is gone


def table(header, lines):
    """A table as Markdown has it."""
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for line in lines:
        print("| " + " | ".join(str(cell) for cell in line) + " |")
    print(flush=True)


def real_tree(given=None):
    """`given`, or a tree of some thousands of files that every machine of this kind has; and how many files it has."""
    if given:
        return given, sum(len(names) for _, _, names in os.walk(given))
    for path in ("/usr/share/perl", "/usr/include", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/doc", "/usr/share"):
        count = sum(len(names) for _, _, names in os.walk(path))
        if 2000 <= count <= 30000:
            return path, count
    raise Failed("no tree of 2,000 to 30,000 files was found; give one with --tree")


def percentile(values, share):
    """The smallest value that at least `share` percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


def until_content(path, content, seconds=180.0):
    """Polls without a pause until the file holds the content."""
    end = time.monotonic() + seconds
    while True:
        try:
            with open(path, "rb") as file:
                if file.read() == content:
                    return
        except FileNotFoundError:
            pass
        if time.monotonic() > end:
            raise Failed(f"{path} did not arrive within {seconds:.0f} seconds")


def first_line(*command):
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return out.stdout.partition("\n")[0]


def machine(fansync):
    """What the figures were measured on."""
    cpus = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu": cpus[0] if cpus else platform.machine(),
        "load": os.getloadavg()[0],
        "rsync": first_line("rsync", "--version"),
        "fansync": first_line(fansync, "--version"),
        "filesystem": "tmpfs",
        "command": sys.argv,
    }


def describe(at):
    """One line of [`machine`]."""
    return f"{at['fansync']}; {at['rsync']}; Linux {at['kernel']}, {at['cpus']} x {at['cpu']}, load {at['load']:.1f}, {at['filesystem']}"


class Sysctl:
    """Settings below /proc/sys for the time of a context; what was there comes back."""

    def __init__(self, **values):
        self.values, self.before = {name.replace("__", "/"): value for name, value in values.items()}, {}

    def __enter__(self):
        for name, value in self.values.items():
            path = Path("/proc/sys") / name
            self.before[path] = path.read_text()
            path.write_text(f"{value}\n")
        return self

    def __exit__(self, *_):
        for path, value in self.before.items():
            path.write_text(value)


def own_network():
    """Leaves for a network namespace of its own, which holds nothing but a loopback device that is up."""
    new_network, flags, up = 0x40000000, 0x8914, 0x1  # CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP
    if ctypes.CDLL(None, use_errno=True).unshare(new_network):
        raise Failed(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, flags, struct.pack("16sh14x", b"lo", up))


def loopback_bytes():
    """All that the loopback device carried so far, both directions, headers and acknowledgements included."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    raise Failed("/proc/net/dev knows no loopback device")
