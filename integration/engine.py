"""What the runners of the engines have in common: a private place, the features one after another, and what is left.

    integration/NAME/run [--runtime PATH|NAME=PATH]... [--cgroup own|v2|systemd] [--only REGEX] [--json FILE] [--slow N]
                         [--shim]
    integration/NAME/run --bench ROUNDS ...

A runner is a list of features, functions marked with @feature that get the Engine, and a `setup` that starts the
engine; `main` does the rest. Each runtime is tried in namespaces of its own (mount, PID, network), with tmpfs where
engines keep their state, so that a machine on which the same engine works already is not disturbed. Every process that
is orphaned comes to the runner: what is there at the end was left by the engine or by the runtime. The exit status is
1 if a feature fails, and 77 if the engine is not installed.

With --cgroup systemd the engine has systemd make the cgroups. As systemd is told which processes go there, their PID
namespace is then the machine's, and /run has systemd's sockets.

With --shim the runtime is containerd's shim as well: nothing else is executed for a container.

With --bench the engine's own command line is timed instead, with the runtime, and with crun and runc of PATH, in turn.
With --shim as well, the others have runc's shim, and containerd's runner measures hack/floor-shim.c too: "floor".
"""

import argparse
import ctypes
import glob
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
FEATURES = []
# What the runtime keeps of containers, if it is the shim.
SHIM_FILES = ["/run/containerd/berth/*/*", "/run/berth-shim/*"]
PR_SET_CHILD_SUBREAPER = 36
slow = 1        # the factor of --slow


def feature(function):
    """Marks a function as a feature; the first line of its docstring is the name."""
    FEATURES.append(function)
    return function


class Skip(Exception):
    pass


class Deadline(Exception):
    pass


def skip(reason):
    raise Skip(reason)


class Output(str):
    """Standard output without the last newline; `code` and `err` come with it."""

    code = 0
    err = ""


def stretched(seconds):
    """The time that this machine is given for what takes others so many seconds at most."""
    return seconds * slow


def sh(command, input="", ok=True, timeout=60, tty=False):
    """Runs a command line. With ok=True it must succeed, with False it must fail, with None it may do either."""
    if tty:
        command = f"script -qec {shlex.quote(command)} /dev/null"
    # Files, not pipes: a process that is left behind may hold a pipe open for ever.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(input.encode())
        stdin.seek(0)
        process = subprocess.Popen(["bash", "-c", command], stdin=stdin, stdout=stdout, stderr=stderr,
                                   start_new_session=True)
        try:
            process.wait(stretched(timeout))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {stretched(timeout)} s: {command}") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace").replace("\r\n", "\n").rstrip("\n"))
    result = Output(texts[0])
    result.code, result.err = process.returncode, texts[1]
    if ok is not None and ok != (result.code == 0):
        raise AssertionError(f"status {result.code}: {command}: {result} {result.err}")
    return result


def wait_until(condition, what, seconds=20):
    """Waits until condition() is true and returns its value."""
    end = time.monotonic() + stretched(seconds)
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {stretched(seconds)} s: {what}")
        time.sleep(0.05)
    return value


class Engine:
    """The private place of one engine with one runtime."""

    def __init__(self, runtime, directory, marker, systemd, rounds=0, shim=False):
        self.runtime = runtime      # path of the runtime's binary
        self.dir = directory        # everything that the engine writes belongs below
        self.marker = marker        # part of the name of every cgroup that the engine makes
        self.systemd = systemd      # makes the cgroups
        self.rounds = rounds        # of the benchmark
        self.shim = shim            # the runtime is the shim as well
        self.v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        self.daemons = []

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        return path

    def lines(self, name):
        """The block of docs/engines.md that is marked with this name (```toml NAME), for this runtime."""
        with open(os.path.join(HERE, "docs/engines.md")) as file:
            found = re.search(rf"^```\w+ {re.escape(name)}\n(.*?)^```$", file.read(), re.M | re.S)
        assert found, f"docs/engines.md has no block named {name}"
        lines = found[1].replace("/usr/local/bin/containerd-shim-berth-v2", self.path("bin/containerd-shim-berth-v2"))
        return lines.replace("/usr/local/bin/berth", self.runtime)

    def parent(self, *below):
        """A cgroup for containers, as engines want it named: the marker's, or one below."""
        names = [self.marker, *below]
        return "-".join(names) + ".slice" if self.systemd else "/" + "/".join(names)

    def cgroup(self, pid, controller=""):
        """The directory of the cgroup of a process; of v1, the controller's."""
        with open(f"/proc/{pid}/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
        for point, options in cgroup_mounts():
            for _, names, path in lines:
                if not names if self.v2 else controller in options and controller in names.split(","):
                    return point + path
        raise AssertionError(f"process {pid} has no {controller} cgroup")

    def offer_shim(self):
        """Has containerd, which is started afterwards, find the runtime as its shim."""
        os.makedirs(self.path("bin"), exist_ok=True)
        os.symlink(self.runtime, self.path("bin/containerd-shim-berth-v2"))
        os.environ["PATH"] = self.path("bin") + ":" + os.environ["PATH"]

    def check_shim(self, pid):
        """Fails if the container's first process is not a child of the runtime, which is to be the shim."""
        if self.shim:
            with open(f"/proc/{pid}/stat") as file:
                parent = file.read().rpartition(")")[2].split()[1]
            assert os.readlink(f"/proc/{parent}/exe") == self.runtime, os.readlink(f"/proc/{parent}/exe")

    def daemon(self, command, ready, log, seconds=60):
        """Starts a daemon and waits until the command line `ready` succeeds."""
        with open(self.path(log), "ab") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                       start_new_session=True)
        self.daemons.append(process)

        def is_ready():
            assert process.poll() is None, f"{command[0]} has ended: {self.tail(log)}"
            return sh(ready, ok=None).code == 0
        wait_until(is_ready, f"{ready}: {self.tail(log)}", seconds)
        return process

    def tail(self, log):
        with open(self.path(log), errors="replace") as file:
            return file.read()[-2000:]

    def stop(self, seconds=30):
        """Ends the daemons, the last one first."""
        while self.daemons:
            process = self.daemons.pop()
            process.terminate()
            try:
                process.wait(stretched(seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"{process.args[0]} does not end on SIGTERM") from None

    def controllers(self):
        """The cgroup controllers that can be used for limits."""
        if self.v2:
            with open("/sys/fs/cgroup/cgroup.controllers") as file:
                return file.read().split()
        return [name for _, options in cgroup_mounts() for name in options]

    def need_controller(self, *names):
        for name in names:
            if name not in self.controllers():
                skip(f"no {name} controller in this hierarchy")

    def need_apparmor(self):
        try:
            with open("/sys/module/apparmor/parameters/enabled") as file:
                enabled = file.read().strip() == "Y"
        except FileNotFoundError:
            enabled = False
        if not enabled:
            skip("no AppArmor in this kernel")

    def compared(self):
        """{name: path} of the runtimes that the benchmark compares."""
        peers = {name: shutil.which(name) for name in ("crun", "runc")} if self.rounds else {}
        return {"berth": self.runtime, **{name: path for name, path in peers.items() if path}}

    def bench(self, operation, commands, most=1000):
        """Times {runtime: command line}, from before fork to after wait, and prints the medians of at most so
        many rounds: see row."""
        works = {}
        for name, command in commands.items():
            result = sh(command, ok=None)
            if result.code == 0:
                works[name] = shlex.split(command)
            else:
                print(f"{operation}: {name} fails: {result.err}", flush=True)
        self.measure(f"`{operation}`, ms", works, lambda name: subprocess.run(
            works[name], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL), most=most)

    def measure(self, what, names, action, tidy=lambda: None, most=1000):
        """Times action(name) for these runtimes in turn, with tidy() after each, and prints the medians: see row."""
        times = {name: [] for name in names}
        for _ in range(min(self.rounds, most)):
            for name in random.sample(list(times), len(times)):
                start = time.monotonic()
                action(name)
                times[name].append(1000 * (time.monotonic() - start))
                tidy()
        self.row(what, {name: statistics.median(values) for name, values in times.items()})

    def cpu(self):
        """CPU time of what the daemon has waited for, and of orphans, which shims are; in milliseconds."""
        return sum(milliseconds(stat(pid)[13:15]) for pid in (self.daemons[0].pid, os.getppid()))

    def shim_cpu(self, pid, action):
        """CPU time of the shim of a container's first process, and of what it waits for, for one action(number); in
        milliseconds."""
        shim, rounds = stat(pid)[1], 5 * self.rounds    # it is little, and the kernel shows ticks of 10 ms
        before = milliseconds(stat(shim)[11:15])
        for number in range(rounds):
            action(number)
        return (milliseconds(stat(shim)[11:15]) - before) / rounds

    def row(self, what, values):
        """Prints {runtime: value} as a row of docs/benchmarks.md: the runtimes, and berth's ratio to each."""
        floor = ["floor"] if self.shim else []
        shown = {name: f"{value:.0f}" if value >= 100 else f"{value:.3g}" for name, value in values.items()}
        cells = [shown.get(name, "-") for name in ("berth", "runc", "crun", *floor)]
        cells += [f"{values['berth'] / values[name]:.2f}" if {"berth", name} <= set(values) and values[name] else "-"
                  for name in ("crun", "runc", *floor)]
        print(" | ".join([f"| {what}", "v2" if self.v2 else "v1", *cells]) + " |", flush=True)


def rootfs():
    """The image's root file system, as {path: content}; a content that is a string is a symlink."""
    with open(shutil.which("busybox"), "rb") as file:
        busybox = file.read()
    files = {"bin/busybox": busybox}
    for applet in subprocess.check_output(["busybox", "--list"], text=True).split():
        if applet != "busybox":
            files[f"bin/{applet}"] = "busybox"
    files["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000::/home/guest:/bin/sh\n"
    files["etc/group"] = b"root:x:0:\nguest:x:1000:\nextra:x:2000:guest\n"
    return files


def layer():
    """The root file system as an uncompressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        def add(name, kind, mode, content=b"", owner=0, link=""):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.linkname = kind, mode, len(content), link
            info.uid = info.gid = owner
            tar.addfile(info, io.BytesIO(content))
        for name, mode, owner in [("bin", 0o755, 0), ("dev", 0o755, 0), ("etc", 0o755, 0), ("home", 0o755, 0),
                                  ("home/guest", 0o755, 1000), ("proc", 0o755, 0), ("root", 0o700, 0),
                                  ("run", 0o755, 0), ("sys", 0o755, 0), ("tmp", 0o1777, 0), ("var", 0o755, 0)]:
            add(name, tarfile.DIRTYPE, mode, owner=owner)
        for name, content in rootfs().items():
            if isinstance(content, str):
                add(name, tarfile.SYMTYPE, 0o777, link=content)
            else:
                add(name, tarfile.REGTYPE, 0o755 if name.startswith("bin/") else 0o644, content)
    return buffer.getvalue()


def image(path, reference, command=("sh",)):
    """Writes an archive with one image of the root file system: OCI layout and `docker save` format in one."""
    from hashlib import sha256
    blobs = {}

    def blob(content, media_type):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        digest = sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    oci = "application/vnd.oci.image"
    data = blob(layer(), f"{oci}.layer.v1.tar")
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = blob({"architecture": architecture, "os": "linux",
                   "config": {"Env": ["PATH=/bin"], "Cmd": list(command)},
                   "rootfs": {"type": "layers", "diff_ids": [data["digest"]]},
                   "history": [{"created_by": "busybox"}]}, f"{oci}.config.v1+json")
    manifest = blob({"schemaVersion": 2, "mediaType": f"{oci}.manifest.v1+json", "config": config, "layers": [data]},
                    f"{oci}.manifest.v1+json")
    manifest["annotations"] = {"io.containerd.image.name": reference,
                               "org.opencontainers.image.ref.name": reference.rpartition(":")[2]}
    blob_path = lambda item: "blobs/" + item["digest"].replace(":", "/")
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    blobs["manifest.json"] = json.dumps([{"Config": blob_path(config), "RepoTags": [reference],
                                          "Layers": [blob_path(data)]}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in blobs.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


# What is there, and what is left

def mounts():
    """[(mount point, file system, super block options)], in the order of mounting."""
    with open("/proc/self/mountinfo") as file:
        lines = [line.split() for line in file]
    return [(line[4], line[line.index("-") + 1], line[line.index("-") + 3]) for line in lines]


def cgroup_mounts():
    topmost = {point: (kind, options.split(",")) for point, kind, options in mounts()}
    return [(point, options) for point, (kind, options) in topmost.items() if kind in ("cgroup", "cgroup2")]


def processes():
    """{pid: command line} of what descends from the runner; what is dead does not count."""
    found, parents = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
            with open(f"/proc/{pid}/cmdline") as file:
                command = file.read().replace("\0", " ").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(pid)] = int(parent)
        if state not in "ZX":
            found[int(pid)] = command
    reaper = os.getppid()       # see init()

    def is_ours(pid):
        while pid not in (0, reaper):
            pid = parents.get(pid, 0)
        return pid == reaper
    return {pid: command for pid, command in found.items() if pid not in (reaper, os.getpid()) and is_ours(pid)}


def stat(pid):
    """The fields of /proc/PID/stat from the state on."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


def milliseconds(fields):
    return sum(map(int, fields)) * 1000 / os.sysconf("SC_CLK_TCK")


def cgroups(marker):
    """The cgroups with the marker in their path, the innermost first."""
    found = set()
    for point, _ in cgroup_mounts():
        for directory, _, _ in os.walk(point):
            if marker in directory:
                found.add(directory)
    return sorted(found, key=len, reverse=True)


def remove_parent(path):
    """Removes a cgroup of Engine.parent, if it has none below."""
    if not glob.glob(f"{path}/*/"):
        sh(f"systemctl stop {os.path.basename(path)}" if path.endswith(".slice") else f"rmdir {path}", ok=None)


def units():
    """What systemd has of the kinds that engines and runtimes make, failed ones too."""
    if not os.path.exists("/run/systemd/private"):
        return set()
    listed = sh("systemctl list-units --all --plain --no-legend --type=scope,slice,timer").splitlines()
    return {line.split()[0] for line in listed} - {"machine.slice"}     # systemd's own, but made when it is needed


def interfaces():
    with open("/proc/net/dev") as file:
        return {line.split(":")[0].strip() for line in file if ":" in line}


def remains(before, marker, files):
    """What is there and should not be, as {text: function that removes it}."""
    left = {}
    for pid, command in processes().items():
        left[f"process {pid} ({command[:80]})"] = lambda pid=pid: os.kill(pid, signal.SIGKILL)
    known = [point for point, _, _ in before["mounts"]]
    for point in reversed([point for point, _, _ in mounts()]):
        if point in known:
            known.remove(point)
        else:
            left[f"mount {point}"] = lambda point=point: subprocess.run(["umount", "-l", point])
    for path in cgroups(marker):
        left[f"cgroup {path}"] = lambda path=path: os.rmdir(path)
    for unit in units() - before["units"]:
        left[f"unit {unit}"] = lambda unit=unit: sh(f"systemctl stop {unit}; systemctl reset-failed {unit}", ok=None)
    for name in interfaces() - before["interfaces"]:
        left[f"interface {name}"] = lambda: None        # goes with the network namespace
    for path in files:
        left[f"file {path}"] = lambda: None             # goes with the mount namespace
    return left


def check_nothing_is_left(before, marker, patterns):
    def now():
        for path in cgroups(marker):
            # The runner's own, in which the engine made its cgroups.
            if os.path.basename(path) == marker or path.endswith(".slice"):
                remove_parent(path)
        return remains(before, marker, [path for pattern in patterns for path in glob.glob(pattern)])
    end = time.monotonic() + stretched(10)
    while (left := now()) and time.monotonic() < end:
        time.sleep(0.2)
    for remove in left.values():
        try:
            remove()
        except OSError:
            pass
    if left:
        time.sleep(0.5)
        for path in cgroups(marker):    # once more, without the processes that were in them
            try:
                os.rmdir(path)
            except OSError:
                pass
    assert not left, ", ".join(left)


# Running

def attempt(name, function, seconds, *arguments):
    """Runs one feature within its time, prints its line, and returns its verdict and reason."""
    seconds = stretched(seconds)

    def late(*_):
        raise Deadline(f"no end after {seconds} s")
    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    start = time.monotonic()
    try:
        function(*arguments)
        verdict, reason = "PASS", f"{time.monotonic() - start:.1f} s"
    except Skip as error:
        verdict, reason = "SKIP", str(error)
    except Exception as error:
        verdict, reason = "FAIL", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    reason = " ".join(reason.split())
    print(f"{verdict} {name}" + (f" ({reason[:400]})" if verdict != "PASS" else ""), flush=True)
    return {"name": name, "verdict": verdict, "reason": reason}


def title(function):
    return function.__doc__.strip().splitlines()[0].rstrip(".")


def inside(options, setup, tidy, files, features):
    """Runs the features with one runtime; already in the private namespaces. Returns the verdicts."""
    hide = options.bench and os.path.isdir("/sys/fs/cgroup/unified")    # crun refuses hybrids with a controller in there
    if hide:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/fs/cgroup/unified"], check=True)
    marker = f"berth{options.marker}"       # a "-" would tell systemd that it is below "berth"
    with tempfile.TemporaryDirectory(prefix="berth-engine-") as directory:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory], check=True)
        before = {"mounts": mounts(), "interfaces": interfaces(), "units": units()}
        engine = Engine(options.runtime[0].partition("=")[2], directory, marker, options.cgroup == "systemd",
                        options.bench, options.shim)
        results = [attempt("the engine starts", setup, 120, engine)]
        if results[0]["verdict"] == "PASS":
            for function in features:
                def then_tidy(engine, function=function):
                    try:
                        function(engine)
                    finally:
                        tidy(engine)
                seconds = getattr(function, "seconds", 120)
                results.append(attempt(title(function), then_tidy, seconds, engine))
        if hide:
            subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)
        results.append(attempt("the engine stops", engine.stop, 120))
        patterns = [pattern.replace("DIR", directory) for pattern in files]
        results.append(attempt("nothing is left", check_nothing_is_left, 60, before, marker, patterns))
        subprocess.run(["umount", "-l", directory], check=True)
    return results


def init(function):
    """Runs function in a child, and is the parent of what is orphaned meanwhile, also where it is not process 1."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        os._exit(function())
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def private(options, name, runtime, private_dirs, report):
    """Runs this script again in namespaces of its own for one runtime; returns the verdicts."""
    setup = ["ip link set lo up", "mount -t tmpfs -o mode=755 tmpfs /mnt"]
    if options.cgroup == "systemd":
        for path in filter(os.path.exists, ["/run/systemd", "/run/dbus", "/run/user"]):
            setup.append(f"mkdir /mnt/{path[5:]} && mount --rbind {path} /mnt/{path[5:]}")
    # /run may hold sockets of an engine that works on this machine; the tree of another PID namespace is of no use.
    setup.append("mount --no-mtab --move /mnt /run")    # its table of mounts is in /run, too
    for path in private_dirs:
        setup.append(f"mkdir -p {path} && mount -t tmpfs -o mode=755 tmpfs {path}")
    if options.cgroup == "v2":
        setup.append("umount -R -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    arguments = ["--runtime", runtime, "--only", options.only, "--cgroup", options.cgroup, "--slow", str(options.slow),
                 "--bench", str(options.bench), "--inside", report, "--marker", str(os.getpid()),
                 *(["--shim"] if options.shim else [])]
    pids = [] if options.cgroup == "systemd" else ["--pid", "--fork", "--kill-child", "--mount-proc"]
    # In one session without a controlling terminal: no feature may depend on the terminal of who runs this.
    subprocess.run(["unshare", "--mount", "--propagation", "private", "--net", *pids,
                    "sh", "-ec", "; ".join(setup) + '; exec "$@"', "sh",
                    sys.executable, sys.argv[0], *arguments], stdin=subprocess.DEVNULL)
    try:
        with open(report) as file:
            return json.load(file)
    except ValueError:
        return [{"name": "the runner", "verdict": "FAIL", "reason": "ended without a report"}]


def count(results):
    return ", ".join(f"{sum(r['verdict'] == verdict for r in results)} {verdict}" for verdict in ("PASS", "FAIL", "SKIP"))


def named(runtimes):
    """["NAME=PATH"] of what --runtime said; without it, the newest release binary."""
    if not runtimes:
        built = sorted(glob.glob(os.path.join(HERE, "target/*/release/berth")), key=os.path.getmtime)
        runtimes = [f"berth={built[-1]}"] if built else sys.exit("no release binary: run make, or name a --runtime")
    found = []
    for item in runtimes:
        name, _, path = item.rpartition("=")
        resolved = shutil.which(path) or sys.exit(f"{path}: not found")
        found.append(f"{name or os.path.basename(path)}={os.path.realpath(resolved)}")
    return found


def main(name, setup, tidy=lambda engine: None, files=(), private_dirs=(), needs=(), version="", bench=None,
         shim=False):
    """The whole of a runner.

    setup(engine) starts the engine; tidy(engine) removes the containers that a feature has left, after each; files are
    patterns of what must not be there at the end (DIR is engine.dir); private_dirs get a tmpfs; needs are
    "COMMAND:PACKAGE" as hack/require takes them; version is a command line that tells the engine's version; bench(engine)
    calls engine.bench; shim: the engine can use the runtime as containerd's shim (Engine.shim).
    """
    parser = argparse.ArgumentParser(description=f"Runs {name} with one or more runtimes, and says what works.")
    parser.add_argument("--runtime", action="append", metavar="PATH|NAME=PATH", help="default: target/*/release/berth")
    parser.add_argument("--cgroup", choices=["own", "v2", "systemd"], default="own",
                        help="own: as it is; v2: a pure cgroup v2 on /sys/fs/cgroup; systemd: made by systemd")
    parser.add_argument("--only", default="", metavar="REGEX", help="only the features whose name matches")
    parser.add_argument("--json", metavar="FILE", help="write the verdicts there")
    parser.add_argument("--slow", type=int, default=1, metavar="N", help="stretch all limits of time, for emulation")
    parser.add_argument("--bench", type=int, default=0, metavar="ROUNDS", help="measure instead")
    if shim:
        parser.add_argument("--shim", action="store_true", help="the runtime is containerd's shim as well")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--marker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shim = shim and options.shim
    global slow
    slow = options.slow
    features = [f for f in ([bench] if options.bench else FEATURES) if re.search(options.only, title(f))]

    if options.inside:
        def run():
            results = inside(options, setup, tidy, files, features)
            with open(options.inside, "w") as report:
                json.dump(results, report)
            return 0
        sys.exit(init(run))

    if os.geteuid() != 0:
        sys.exit(f"{name}: needs root")
    missing = [item.rpartition(":")[2] for item in ("ip:iproute2", "busybox:busybox-static", *needs)
               if not shutil.which(item.partition(":")[0])]
    if missing:
        print(f"{name}: missing; apt-get install {' '.join(dict.fromkeys(missing))}", file=sys.stderr)
        sys.exit(77)
    if options.cgroup == "systemd" and not os.path.exists("/run/systemd/private"):
        sys.exit(f"{name}: systemd does not run here")
    everything = {}
    for runtime in named(options.runtime):
        label = runtime.partition("=")[0]
        role = " as the shim" if options.shim else ""
        print(f"== {name} with {label}{role}, cgroup {options.cgroup}" + (f": {sh(version)}" if version else ""),
              flush=True)
        with tempfile.NamedTemporaryFile(prefix="berth-report-") as report:
            everything[label] = private(options, name, runtime, private_dirs, report.name)
        print(f"total: {count(everything[label])}", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(everything, file, indent=1)
    sys.exit(any(r["verdict"] == "FAIL" for results in everything.values() for r in results))
