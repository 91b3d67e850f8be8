"""What Docker and Podman have in common: the features of one container, asked for on a command line that both know."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import urllib.error
import urllib.request

from engine import cgroups, feature, remove_parent, sh, skip, stretched, wait_until

# The local image: PATH is set, every applet of busybox is there, and a user "guest".
IMAGE = "bb"
SERVE = "'echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp'"
PROGRAM = []
exec_not_found = 127    # the engine's exit code of an exec of what does not exist


def use(program):
    """Names the command line's program, with what has to stand before every command."""
    PROGRAM[:] = [program]


def cli(line, code=0, input="", timeout=60):
    """Runs a command of the engine, which must end with the code, or one of the codes; where it fails, the output has
    its complaint too."""
    result = sh(f"{PROGRAM[0]} {line}", input=input, ok=None, timeout=timeout)
    codes = code if isinstance(code, tuple) else (code,)
    assert result.code in codes, f"status {result.code}, not {code}: {PROGRAM[0]} {line}: {result} {result.err}"
    return result if result.code == 0 else str(result) + result.err


def equal(actual, wanted):
    assert actual == wanted, f"{actual!r}, not {wanted!r}"


def contains(text, *wanted):
    for part in wanted:
        assert part in text, f"{part!r} is not in {text!r}"


def inspect(container, template):
    return cli(f"inspect -f '{template}' {container}")


class Terminal:
    """A command on a terminal whose other end is held here."""

    def __init__(self, line, rows, columns):
        self.master, slave = pty.openpty()
        self.text = ""
        self.resize(rows, columns)

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        self.process = subprocess.Popen(["bash", "-c", line], stdin=slave, stdout=slave, stderr=slave,
                                        preexec_fn=own_terminal)
        os.close(slave)

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def write(self, text):
        os.write(self.master, text.encode())

    def expect(self, text, seconds=15):
        """Waits until the text is seen, and forgets everything up to it."""
        end = time.monotonic() + stretched(seconds)
        while text not in self.text:
            assert time.monotonic() < end, f"{text!r} is not in {self.text!r}"
            # A client that is still starting may have missed that the size has changed.
            os.kill(self.process.pid, signal.SIGWINCH)
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.master, 4096).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"the terminal ended without {text!r}: {self.text!r}") from None
        self.text = self.text.split(text, 1)[1]

    def ends(self, code, seconds=15):
        equal(self.process.wait(stretched(seconds)), code)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.master)


def remove_containers():
    cli("rm -f $(%s ps -aq) < /dev/null" % PROGRAM[0]) if cli("ps -aq") else None


def remove_parents(engine):
    """The engine leaves the cgroups above its containers; a container's own has its id as name and stays to be seen."""
    for path in cgroups(engine.marker):
        if not re.search("[0-9a-f]{64}", path):
            remove_parent(path)


# Life

@feature
def run(_):
    """Run a command and see its output"""
    equal(cli(f"run --rm {IMAGE} echo hello"), "hello")
    equal(sh(f"{PROGRAM[0]} run --rm {IMAGE} sh -c 'echo complaint >&2'").err, "complaint")
    equal(cli(f"run --rm -i {IMAGE} cat", input="through\n"), "through")


@feature
def exit_codes(_):
    """Exit codes of the command, and of what cannot be executed"""
    cli(f"run --rm {IMAGE} sh -c 'exit 7'", code=7)
    contains(cli(f"run --rm {IMAGE} no-such-command", code=127), "not found in $PATH")
    contains(cli(f"run --rm {IMAGE} /no/such", code=127).lower(), "no such file or directory")
    contains(cli(f"run --rm {IMAGE} /etc/passwd", code=126).lower(), "permission denied")


@feature
def detached(_):
    """Logs, wait and remove"""
    cli(f"run -d --name talk {IMAGE} sh -c 'echo out; echo err >&2; exit 3'")
    equal(cli("wait talk"), "3")
    equal(sorted(sh(f"{PROGRAM[0]} logs talk 2>&1").split()), ["err", "out"])
    cli("rm talk")
    cli("inspect talk", code=(1, 125))


@feature
def stop(_):
    """Stop, start, restart and kill"""
    cli(f"run -d --name life {IMAGE} sh -c "
        "'trap \"exit 5\" TERM; trap \"echo usr1\" USR1; while :; do sleep 0.1; done'")
    wait_until(lambda: cli("top life"), "a process")
    time.sleep(0.3)     # The shell has to set its traps.
    cli("kill --signal USR1 life")
    wait_until(lambda: cli("logs life") == "usr1", "the signal")
    cli("stop life")
    equal(cli("wait life"), "5")
    cli("start life")
    cli("restart --time 5 life")
    cli("kill life")
    equal(cli("wait life"), "137")


@feature
def stubborn(_):
    """A container that ignores its stop signal is killed"""
    cli(f"run -d --name stubborn --stop-signal USR1 {IMAGE} sh -c 'trap \"\" USR1; while :; do sleep 0.1; done'")
    cli("stop --time 1 stubborn")
    equal(cli("wait stubborn"), "137")


@feature
def pause(_):
    """Pause and unpause"""
    cli(f"run -d --name paused {IMAGE} sh -c 'while :; do echo tick; sleep 0.1; done'")
    cli("pause paused")
    equal(inspect("paused", "{{.State.Status}}"), "paused")
    cli("exec paused true", code=(1, 125, 255))
    time.sleep(0.3)
    before = cli("logs paused")
    time.sleep(0.3)
    equal(cli("logs paused"), before)
    cli("unpause paused")
    wait_until(lambda: cli("logs paused") != before, "life after unpause")
    cli("pause paused")
    cli("rm -f paused")


@feature
def top(_):
    """Top"""
    cli(f"run -d --name top {IMAGE} sleep 1000")
    contains(cli("top top"), "sleep 1000")


@feature
def events(_):
    """Events"""
    cli(f"run --name eventful {IMAGE} true")
    action = "Action" if PROGRAM[0] == "docker" else "Status"
    # Docker waits for the end of this time; Podman goes through the whole of its file, unless the end comes before.
    until = f"$(($(date +%s) + {stretched(1)}))"

    def said():
        return cli(f"events --since {stretched(60)}s --until {until} --filter container=eventful "
                   f"--format '{{{{.{action}}}}}'").split()
    # Podman's last event comes from a process of its own.
    wait_until(lambda: {"create", "start"} <= set(said()) and {"die", "died"} & set(said()), "create, start and die")


@feature
def execute(_):
    """Exec with environment, directory, user, input and codes"""
    cli(f"run -d --name host -e A=container {IMAGE} sleep 1000")
    equal(cli("exec -e B=exec -w /tmp -u 1000:2000 host sh -c 'echo $A $B $(pwd) $(id -u):$(id -g)'"),
          "container exec /tmp 1000:2000")
    cli("exec host sh -c 'exit 9'", code=9)
    contains(cli("exec host no-such-command", code=exec_not_found), "not found in $PATH")
    cli("exec host /etc/passwd", code=126)
    equal(cli("exec -i host cat", input="through\n"), "through")
    cli("exec -d host sh -c 'echo later > /later'")
    wait_until(lambda: cli("exec host cat /later", code=(0, 1)) == "later", "the detached command's file")


@feature
def execute_privileged(_):
    """Exec with --privileged"""
    cli(f"run -d --name host {IMAGE} sleep 1000")
    show = "grep CapEff /proc/self/status"
    more, fewer = (int(cli(f"exec {option} host {show}").split()[1], 16) for option in ("--privileged", ""))
    assert more & ~fewer, f"{more:x} has no more than {fewer:x}"


@feature
def attach(_):
    """Attach"""
    cli(f"run -di --name attached {IMAGE} sh -c 'read line; sleep 1; echo heard $line; exit 6'")
    # Docker shows nothing more after the end of the input.
    equal(sh(f"(echo words; sleep 3) | {PROGRAM[0]} attach attached", ok=None).strip(), "heard words")
    equal(cli("wait attached"), "6")
    cli(f"create -i --name started {IMAGE} cat")
    equal(cli("start -ai started", input="echoed\n"), "echoed")


@feature
def terminal(_):
    """A terminal, its size, and its resizing"""
    with Terminal(f"exec {PROGRAM[0]} run --rm -it {IMAGE} sh", rows=33, columns=99) as tty:
        tty.write("while [ \"$(stty size)\" != '33 99' ]; do sleep 0.1; done; echo $(tty) si''zed\n")
        tty.expect("/dev/pts/0 sized")
        tty.resize(44, 111)
        tty.write("while [ \"$(stty size)\" != '44 111' ]; do sleep 0.1; done; echo re''sized\n")
        tty.expect("resized")
        tty.write("exit 3\n")
        tty.ends(3)


@feature
def terminal_exec(_):
    """A terminal for exec"""
    cli(f"run -d --name console {IMAGE} sleep 1000")
    with Terminal(f"exec {PROGRAM[0]} exec -it -u 1000 console sh", rows=22, columns=77) as tty:
        tty.write("while [ \"$(stty size)\" != '22 77' ]; do sleep 0.1; done; test -t 0 && echo is''atty $(id -u)\n")
        tty.expect("isatty 1000")
        tty.write("exit 4\n")
        tty.ends(4)


@feature
def restart_policy(_):
    """Restart policies"""
    cli(f"run -d --name twice --restart on-failure:2 {IMAGE} false")
    wait_until(lambda: inspect("twice", "{{.RestartCount}} {{.State.Status}}") == "2 exited", "two restarts")
    cli(f"run -d --name always --restart always {IMAGE} sleep 1000")
    first = inspect("always", "{{.State.Pid}}")
    os.kill(int(first), signal.SIGKILL)
    wait_until(lambda: inspect("always", "{{.State.Pid}}") not in (first, "0"), "a new process")


# Files

@feature
def copy(engine):
    """Copy into and out of a container"""
    engine.write("in", "copied\n")
    cli(f"run -d --name copy {IMAGE} sleep 1000")
    cli(f"cp {engine.path('in')} copy:/in")
    equal(cli("exec copy cat /in"), "copied")
    cli(f"cp copy:/in {engine.path('out')}")
    equal(sh(f"cat {engine.path('out')}"), "copied")


@feature
def save(engine):
    """Commit, diff, save, load and export"""
    archive, tree = engine.path("saved.tar"), engine.path("tree.tar")
    cli(f"run --name changed {IMAGE} sh -c 'echo new > /new'")
    contains(cli("diff changed"), "A /new")
    cli("commit changed committed")
    cli(f"save -o {archive} committed")
    cli("rmi committed")
    cli(f"load -i {archive}")
    equal(cli("run --rm committed cat /new"), "new")
    cli("rmi committed")
    cli(f"export -o {tree} changed")
    contains(sh(f"tar tf {tree}"), "new")


@feature
def volume(_):
    """Volumes"""
    cli("volume create data")
    cli(f"run --rm -v data:/data {IMAGE} sh -c 'echo kept > /data/file'")
    equal(cli(f"run --rm -v data:/data {IMAGE} cat /data/file"), "kept")
    contains(cli(f"run --rm -v data:/data:ro {IMAGE} touch /data/x", code=1), "Read-only file system")
    cli(f"create --name keeper -v data:/data {IMAGE}")
    equal(cli(f"run --rm --volumes-from keeper {IMAGE} cat /data/file"), "kept")
    cli("rm keeper")
    cli("volume rm data")
    cli(f"run --rm -v filled:/etc {IMAGE} grep root /etc/passwd")
    cli("volume rm filled")


@feature
def bind(engine):
    """Bind mounts of directories and files, read-only, with propagation"""
    where = engine.path("bound")
    os.makedirs(where)
    cli(f"run --rm -v {where}:/b {IMAGE} sh -c 'echo inside > /b/file'")
    equal(sh(f"cat {where}/file"), "inside")
    contains(cli(f"run --rm --mount type=bind,src={where},dst=/b,readonly {IMAGE} touch /b/x", code=1), "Read-only")
    contains(cli(f"run --rm -v {where}/file:/one:ro,rprivate {IMAGE} grep ' /one ' /proc/self/mountinfo"), "/one ro,")


@feature
def tmpfs(_):
    """Tmpfs and the size of /dev/shm"""
    contains(cli(f"run --rm --tmpfs /t:size=1m,mode=700,noexec {IMAGE} grep ' /t ' /proc/mounts"),
             "size=1024k", "mode=700", "noexec")
    contains(cli(f"run --rm --shm-size 8m {IMAGE} grep ' /dev/shm ' /proc/mounts"), "size=8192k")


@feature
def read_only(_):
    """A read-only root"""
    contains(cli(f"run --rm --read-only {IMAGE} touch /x", code=1), "Read-only file system")
    cli(f"run --rm --read-only --tmpfs /tmp {IMAGE} touch /tmp/x /dev/shm/x")


# Network

@feature
def network(_):
    """A network of one's own, with names"""
    cli("network create names")
    try:
        cli(f"run -d --name server --network names --network-alias also {IMAGE} sh -c {SERVE}")
        for name in ("server", "also"):
            equal(cli(f"run --rm --network names {IMAGE} timeout 5 wget -qO- http://{name}/"), "served")
    finally:
        cli("rm -f server")
        cli("network rm names")


@feature
def connect(_):
    """Connect and disconnect a network"""
    cli("network create second")
    cli("network create first")
    try:
        cli(f"run -d --name linked --network first {IMAGE} sleep 1000")
        cli("network connect second linked")
        cli("exec linked ip addr show eth1")
        cli("network disconnect second linked")
        cli("exec linked ip addr show eth1", code=1)
    finally:
        cli("rm -f linked")
        cli("network rm first second")


def served(port):
    """Whether what SERVE serves is published on this port."""
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read() == b"served\n"
    except (OSError, urllib.error.URLError):
        return False


@feature
def publish(_):
    """Published ports"""
    cli(f"run -d --name web -p 127.0.0.1:18080:80 {IMAGE} sh -c {SERVE}")
    wait_until(lambda: served(18080), "an answer on the published port")


@feature
def network_modes(_):
    """Network none, host and container"""
    equal(cli(f"run --rm --network none {IMAGE} ls /sys/class/net").split(), ["lo"])
    equal(cli(f"run --rm --network host {IMAGE} readlink /proc/self/ns/net"), os.readlink("/proc/self/ns/net"))
    cli(f"run -d --name netowner {IMAGE} sleep 1000")
    equal(cli(f"run --rm --network container:netowner {IMAGE} readlink /proc/self/ns/net"),
          cli("exec netowner readlink /proc/self/ns/net"))


@feature
def hosts(_):
    """Names, hosts and resolvers"""
    shown = cli(f"run --rm --hostname myself --add-host other:10.9.8.7 --dns 10.1.2.3 {IMAGE} "
                "sh -c 'hostname; cat /etc/hosts /etc/resolv.conf'")
    contains(shown, "myself\n", "10.9.8.7\tother", "nameserver 10.1.2.3")


# Resources

def cgroup_value(engine, container, v1, v2):
    """What the kernel has, read where the engine itself would read it."""
    path = engine.cgroup(inspect(container, "{{.State.Pid}}"), v1.split(".")[0])
    return sh(f"cat {path}/{v2 if engine.v2 else v1}")


@feature
def memory(engine):
    """Memory limits and their update"""
    engine.need_controller("memory")
    cli(f"run -d --name memory --memory 32m --memory-swap 32m --memory-reservation 16m {IMAGE} sleep 1000")
    files = ("memory.limit_in_bytes", "memory.max")
    equal(cgroup_value(engine, "memory", *files), str(32 << 20))
    equal(cgroup_value(engine, "memory", "memory.soft_limit_in_bytes", "memory.low"), str(16 << 20))
    cli("update --memory 48m --memory-swap 48m memory")
    equal(cgroup_value(engine, "memory", *files), str(48 << 20))


@feature
def out_of_memory(engine):
    """The engine hears that the memory is used up"""
    engine.need_controller("memory")
    # With its last process systemd removes the cgroup, and with that the count that the engine is still to read.
    script = "tail /dev/zero; code=$?; sleep 1; exit $code"
    cli(f"run --name oom --memory 16m --memory-swap 16m {IMAGE} sh -c '{script}'", code=137)
    if os.path.exists("oom"):
        skip("conmon has heard it, but notes it in the directory of Podman's caller, where Podman does not look")
    wait_until(lambda: inspect("oom", "{{.State.OOMKilled}}") == "true", "OOMKilled")


@feature
def cpu(engine):
    """CPU limits and their update"""
    engine.need_controller("cpu")
    cli(f"run -d --name cpu --cpus 0.5 --cpu-shares 512 {IMAGE} sleep 1000")
    files = ("cpu.cfs_quota_us", "cpu.max")
    equal(cgroup_value(engine, "cpu", *files).split()[0], "50000")
    # Weights come from shares by a line, or since 2025 by a curve that keeps the default.
    contains(["20", "59"] if engine.v2 else ["512"], cgroup_value(engine, "cpu", "cpu.shares", "cpu.weight"))
    cli("update --cpus 0.25 cpu")
    equal(cgroup_value(engine, "cpu", *files).split()[0], "25000")


@feature
def cpuset(engine):
    """CPU sets and their update"""
    engine.need_controller("cpuset")
    cli(f"run -d --name cpuset --cpuset-cpus 0 {IMAGE} sleep 1000")
    equal(cgroup_value(engine, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0")
    if len(os.sched_getaffinity(0)) > 1:
        cli("update --cpuset-cpus 0-1 cpuset")
        equal(cgroup_value(engine, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0-1")


@feature
def pids(engine):
    """Limits of processes and their update"""
    engine.need_controller("pids")
    cli(f"run -d --name pids --pids-limit 20 {IMAGE} sleep 1000")
    equal(cgroup_value(engine, "pids", "pids.max", "pids.max"), "20")
    if "--pids-limit" not in cli("update --help"):
        skip("the limit is set, but this Podman cannot update it")
    cli("update --pids-limit 30 pids")
    equal(cgroup_value(engine, "pids", "pids.max", "pids.max"), "30")


@feature
def block_io(engine):
    """Limits of block devices"""
    engine.need_controller("io" if engine.v2 else "blkio")
    device = next((f"/dev/{name}" for name in sorted(os.listdir("/sys/block")) if os.path.exists(f"/dev/{name}")), None)
    number = os.stat(device).st_rdev
    cli(f"run -d --name slow --device-read-bps {device}:1mb {IMAGE} sleep 1000")
    contains(cgroup_value(engine, "slow", "blkio.throttle.read_bps_device", "io.max"),
             f"{os.major(number)}:{os.minor(number)} ", "1048576")


# Security

@feature
def users(_):
    """Users and groups"""
    equal(cli(f"run --rm -u guest --group-add 3000 {IMAGE} sh -c 'id -u; id -G'"), "1000\n1000 2000 3000")
    equal(cli(f"run --rm -u 4711:815 {IMAGE} id -G"), "815")
    equal(cli(f"run --rm -u guest {IMAGE} sh -c 'echo $HOME'"), "/home/guest")


@feature
def capabilities(_):
    """Capabilities"""
    def effective(options):
        return int(cli(f"run --rm {options} {IMAGE} grep CapEff /proc/self/status").split()[1], 16)
    default = effective("")
    assert default and default & 1 << 12 == 0, f"{default:x}"
    equal(effective("--cap-drop all"), 0)
    equal(effective("--cap-drop all --cap-add net_admin"), 1 << 12)
    equal(effective("--cap-add net_admin"), default | 1 << 12)
    equal(effective("-u 1000"), 0)


@feature
def seccomp(engine):
    """Seccomp: the default profile, none, and one's own"""
    def mode(options):
        return cli(f"run --rm {options} {IMAGE} grep Seccomp: /proc/self/status").split()[1]
    equal(mode(""), "2")
    equal(mode("--security-opt seccomp=unconfined"), "0")
    cli(f"run --rm {IMAGE} unshare -m true", code=1)
    profile = engine.write("seccomp.json", json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}))
    cli(f"run --rm --security-opt seccomp={profile} {IMAGE} mkdir /x", code=1)
    cli(f"run --rm --security-opt seccomp={profile} {IMAGE} touch /x")


@feature
def apparmor(engine):
    """AppArmor: the engine's profile, and none"""
    engine.need_apparmor()
    show = "cat /proc/self/attr/current"
    cli(f"run -d --name host {IMAGE} sleep 1000")
    for output in cli(f"run --rm {IMAGE} {show}"), cli(f"exec host {show}"):
        contains(output, "-default", " (enforce)")
    contains(cli(f"run --rm --security-opt apparmor=unconfined {IMAGE} {show}"), "unconfined")


@feature
def no_new_privileges(_):
    """no-new-privileges"""
    show = f"{IMAGE} grep NoNewPrivs /proc/self/status"
    equal(cli(f"run --rm --security-opt no-new-privileges {show}").split()[1], "1")
    equal(cli(f"run --rm {show}").split()[1], "0")


@feature
def ulimits(_):
    """Limits of the process"""
    # Podman 4 would raise the limit of processes where it is not named, which takes CAP_SYS_RESOURCE.
    equal(cli("run --rm --ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=1024:1024 "
              f"{IMAGE} sh -c 'ulimit -n; ulimit -Hn; ulimit -c'").split(), ["100", "200", "0"])


@feature
def sysctls(_):
    """Kernel parameters"""
    equal(cli("run --rm --network none --sysctl net.ipv4.ip_default_ttl=42 --sysctl kernel.msgmax=4242 "
              f"{IMAGE} cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/msgmax").split(), ["42", "4242"])


@feature
def devices(_):
    """Devices"""
    opened = "dd if=/dev/null of=/dev/made"     # The kernel's log, which anybody may open for writing.
    cli(f"run --rm --device /dev/kmsg:/dev/made {IMAGE} {opened}")
    cli(f"run --rm --device /dev/kmsg:/dev/made:r {IMAGE} {opened}", code=1)
    made = f"mknod /dev/made c 1 11 && {opened}"
    cli(f"run --rm --cap-add mknod {IMAGE} sh -c '{made}'", code=1)
    cli(f"run --rm --cap-add mknod --device-cgroup-rule 'c 1:11 rwm' {IMAGE} sh -c '{made}'")


@feature
def privileged(_):
    """Privileged"""
    words = cli(f"run --rm --privileged {IMAGE} sh -c 'grep -E \"CapEff|Seccomp:\" /proc/self/status; "
                "mount -t tmpfs t /tmp && test -w /proc/sys/kernel/hostname && ls /dev/kmsg'").split()
    equal((int(words[1], 16) >> 21 & 1, words[3], words[-1]), (1, "0", "/dev/kmsg"))


@feature
def masked_paths(_):
    """Masked and read-only paths"""
    cli(f"run --rm {IMAGE} sh -c 'test -c /proc/timer_list && ! tee /proc/sys/kernel/domainname < /etc/passwd'")


# Namespaces

@feature
def namespaces(_):
    """PID, IPC, UTS and cgroup namespaces: private and the host's"""
    for kind, option in (("pid", "pid"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroupns")):
        own = os.readlink(f"/proc/self/ns/{kind}")
        assert cli(f"run --rm --{option} private {IMAGE} readlink /proc/self/ns/{kind}"
                   if option != "pid" and option != "uts" else f"run --rm {IMAGE} readlink /proc/self/ns/{kind}") != own
        equal(cli(f"run --rm --{option} host {IMAGE} readlink /proc/self/ns/{kind}"), own)


@feature
def namespaces_of_containers(_):
    """PID and IPC namespaces of another container"""
    cli(f"run -d --name owner --ipc shareable {IMAGE} sh -c 'echo shared > /dev/shm/file; sleep 1000'")
    wait_until(lambda: cli("exec owner ls /dev/shm") == "file", "the file")
    contains(cli(f"run --rm --pid container:owner {IMAGE} ps"), "sleep 1000")
    equal(cli(f"run --rm --ipc container:owner {IMAGE} cat /dev/shm/file"), "shared")


@feature
def at_once(_):
    """Eight containers at once"""
    # What a container wrote is read from its log: Podman may end before it has copied the last line to its caller.
    ended = sh("\n".join([*(f"{PROGRAM[0]} run --name eight{number} {IMAGE} echo {number} > /dev/null || echo {number}: $? &"
                            for number in range(8)), "wait"]))
    assert not ended, f"{ended} {ended.err}"
    equal([cli(f"logs eight{number}") for number in range(8)], [str(number) for number in range(8)])
