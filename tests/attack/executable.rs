//! The executable that init runs from (CVE-2019-5736): nothing leads from a container to the host's binary, and what it
//! leads to cannot be changed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::SealFlags;
use rustix::io::Errno;

use crate::actor::{self, command, told};
use crate::harness::inject::{Action, Point};
use crate::harness::{Config, Container, Test, namespace_of};

e2e!(any:
    a_waiting_init_maps_nothing_of_the_host,
    a_waiting_init_shares_no_page_with_the_host,
    the_executable_of_init_is_sealed,
    at_no_moment_does_exec_show_the_hosts_binary,
    at_no_moment_does_a_sibling_show_the_hosts_binary,
    a_tracer_in_the_container_reaches_sealed_memory_only,
    the_runtime_as_interpreter_is_no_runtime,
    the_command_line_is_no_init,
    addresses_of_the_runtime_are_random,
);

/// What a file is, by device and inode, whatever it is called.
fn identity(path: &Path) -> (u64, u64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.dev(), metadata.ino())
}

/// Device, inode and name of each file that a process maps: `start-end perms offset major:minor inode name`.
fn mapped(pid: i32) -> Vec<((u64, u64), String)> {
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return Vec::new() };
    let parse = |line: &str| {
        let mut fields = line.split_whitespace().skip(3);
        let (major, minor) = fields.next()?.split_once(':')?;
        let [major, minor] = [major, minor].map(|number| u32::from_str_radix(number, 16).unwrap());
        let inode: u64 = fields.next()?.parse().unwrap();
        let name = fields.collect::<Vec<_>>().join(" ");
        (inode != 0).then(|| ((rustix::fs::makedev(major, minor), inode), name))
    };
    maps.lines().filter_map(parse).collect()
}

/// What of the runtime's file a process has: mapped, open, or as its executable.
fn holds(pid: i32, runtime: (u64, u64)) -> Vec<String> {
    let mut held: Vec<_> = mapped(pid)
        .into_iter()
        .filter(|(file, _)| *file == runtime)
        .map(|(_, name)| format!("map of {name}"))
        .collect();
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().map(|fd| fd.path());
    for link in fds.chain([PathBuf::from(format!("/proc/{pid}/exe"))]) {
        if fs::metadata(&link).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == runtime) {
            held.push(link.display().to_string());
        }
    }
    held
}

fn a_waiting_init_maps_nothing_of_the_host(t: &Test) {
    let runtime = identity(t.runtime_path());
    assert!(!holds(std::process::id().cast_signed(), identity(Path::new("/proc/self/exe"))).is_empty(), "is seen here");
    let c = t.container(Config::sleep());
    c.create().ok();
    let files = mapped(c.pid());
    assert!(!files.is_empty() && files.iter().all(|(_, name)| name == "/memfd:berth (deleted)"), "{files:?}");
    assert_eq!(holds(c.pid(), runtime), [""; 0]);
}

/// The numbers of the page frames of a process's memory, as far as they are there.
fn frames(pid: i32, only: Option<std::ops::Range<u64>>) -> HashSet<u64> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let mut frames = HashSet::new();
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        if line.ends_with("]") && !line.ends_with("[heap]") && !line.ends_with("[stack]") {
            continue; // [vdso]: everybody's
        }
        for page in (start..end).step_by(4096).filter(|page| only.as_ref().is_none_or(|only| only.contains(page))) {
            let mut entry = [0; 8];
            pagemap.read_exact_at(&mut entry, page / 4096 * 8).unwrap();
            let entry = u64::from_ne_bytes(entry);
            const PRESENT: u64 = 1 << 63;
            if entry & PRESENT != 0 {
                frames.insert(entry & ((1 << 55) - 1));
            }
        }
    }
    frames
}

fn a_waiting_init_shares_no_page_with_the_host(t: &Test) {
    let c = t.container(Config::sleep());
    c.create().ok();
    let map = actor::map(&File::open(t.runtime_path()).unwrap());
    let hosts = frames(std::process::id().cast_signed(), Some(map));
    let inits = frames(c.pid(), None);
    assert!(hosts.len() > 100 && !hosts.contains(&0), "page frames can be seen: {}", hosts.len());
    assert!(inits.len() > 10 && !inits.contains(&0), "{}", inits.len());
    assert_eq!(hosts.intersection(&inits).count(), 0, "of {} pages", inits.len());
}

fn the_executable_of_init_is_sealed(t: &Test) {
    let c = t.container(Config::sleep());
    c.create().ok();
    let proc = PathBuf::from(format!("/proc/{}", c.pid()));
    let mapped: Vec<_> = fs::read_dir(proc.join("map_files")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(mapped.len() > 1, "{mapped:?}");
    let mut held = Vec::new();
    for path in mapped.into_iter().chain([proc.join("exe")]) {
        let file = File::open(&path).unwrap();
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
        let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        assert!(seals.contains(all), "{path:?}: {seals:?}");
        assert!(File::options().write(true).open(&path).is_err(), "{path:?}: is executed");
        held.push(file);
    }
    c.delete_force().ok();
    for file in held {
        // Nobody executes it any more.
        let mut file = File::options().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        let refused = Errno::from_io_error(&file.write(b"x").unwrap_err());
        assert_eq!(refused, Some(Errno::PERM));
        assert_eq!(Errno::from_io_error(&file.set_len(0).unwrap_err()), Some(Errno::PERM));
    }
}

/// What of the runtime's file the processes of a container's PID namespace have.
fn held_inside(namespace: &str, runtime: (u64, u64)) -> (usize, Vec<String>) {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let inside =
        |pid: &i32| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|link| link.to_str() == Some(namespace));
    let pids: Vec<_> = pids.filter(inside).collect();
    (pids.len(), pids.into_iter().flat_map(|pid| holds(pid, runtime)).collect())
}

/// Stops the command that `command` makes at every system call of the processes that it makes, and looks at all that
/// the container sees then. Returns the greatest number of processes that it saw.
fn look_everywhere(t: &Test, c: &Container, command: impl Fn() -> crate::harness::Cmd, undo: impl Fn()) -> usize {
    const PATIENCE: Duration = Duration::from_secs(60);
    let runtime = identity(t.runtime_path());
    let namespace = namespace_of(Some(c.pid()), "pid");
    let nowhere = Point { process: usize::MAX, number: 0, occurrence: 1 };
    let (output, seen) = command().trace(&[], nowhere, Action::Watch, PATIENCE).wait();
    output.ok();
    undo();
    let points: Vec<_> = seen.points.into_iter().filter(|point| point.process > 0).collect();
    assert!(points.len() > 50, "{}", points.len());
    let mut most = 0;
    for point in points {
        let traced = command().trace(&[], point, Action::Pause, PATIENCE);
        if traced.reached() {
            let (processes, held) = held_inside(&namespace, runtime);
            most = most.max(processes);
            assert!(held.is_empty(), "at {point:?}: {held:?}");
            traced.go_on();
        }
        traced.wait();
        undo();
    }
    most
}

fn at_no_moment_does_exec_show_the_hosts_binary(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let most = look_everywhere(t, &c, || c.exec_cmd(&[], &["/bin/true"]), || {});
    assert_eq!(most, 2, "the one that joins was among them");
}

fn at_no_moment_does_a_sibling_show_the_hosts_binary(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let join = format!("/proc/{}/ns/pid", c.pid());
    let sibling = t.container(Config::new(["/bin/true"]).namespace("pid", Some(&join)));
    let most = look_everywhere(t, &c, || sibling.run_cmd(&[]), || drop(sibling.delete_force()));
    assert_eq!(most, 2, "the one that joins was among them");
}

fn a_tracer_in_the_container_reaches_sealed_memory_only(t: &Test) {
    let before = fs::read(t.runtime_path()).unwrap();
    let capabilities = ["CAP_SYS_PTRACE", "CAP_CHECKPOINT_RESTORE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"];
    let c = actor::container(t, Config::sleep().capabilities(&capabilities));
    c.up();
    // The first call after it has joined that nothing before it makes.
    let at = Point { process: 2, number: libc::SYS_setsid, occurrence: 1 };
    let paused = c.exec_cmd(&[], &["/bin/true"]).trace(&[], at, Action::Pause, Duration::from_secs(60));
    assert!(paused.reached());
    let args = command("overwrite");
    let reached = told(&c.exec(&args.iter().map(String::as_str).collect::<Vec<_>>()).ok());
    paused.go_on();
    paused.wait();
    let reached: Vec<_> =
        reached.lines().filter(|line| !line.contains("/bin/busybox") && !line.contains("actor")).collect();
    assert!(reached.iter().any(|line| line.contains("map_files")), "it can reach what is mapped: {reached:?}");
    assert!(
        reached.iter().all(|line| line.starts_with("/memfd:berth (deleted) ") && line.ends_with(": refused")),
        "{reached:?}"
    );
    assert!(fs::read(t.runtime_path()).unwrap() == before);
}

fn the_runtime_as_interpreter_is_no_runtime(t: &Test) {
    let before = fs::read(t.runtime_path()).unwrap();
    for line in ["#!/proc/self/exe\n", "#!/proc/self/exe 3\n", "#!/proc/self/exe list\n"] {
        let c = t.container(Config::new(["/attack"]));
        let attack = c.rootfs().join("attack");
        fs::write(&attack, line).unwrap();
        fs::set_permissions(&attack, fs::Permissions::from_mode(0o755)).unwrap();
        c.run().code(2).says("this program runs for a container's init only");
        c.delete_force();
    }
    assert!(fs::read(t.runtime_path()).unwrap() == before);
}

fn the_command_line_is_no_init(t: &Test) {
    let socket: OwnedFd = std::os::unix::net::UnixDatagram::unbound().unwrap().into();
    t.runtime().args(["init", "3"]).pass_fd(socket, 3).run().code(3).says("there is no such command");
}

fn addresses_of_the_runtime_are_random(t: &Test) {
    if cfg!(all(target_arch = "aarch64", target_env = "gnu")) {
        skip!("Rust links static programs to fixed addresses with glibc on aarch64");
        return;
    }
    // A root program that reads what attackers write. Here it waits for the container's end.
    let c = t.container(Config::sh("echo up > /up; sleep 1000"));
    let runtime = identity(t.runtime_path());
    let mut seen = HashSet::new();
    for _ in 0..4 {
        let mut running = c.run_cmd(&[]).spawn();
        c.wait_file("/up");
        fs::remove_file(c.rootfs().join("up")).unwrap();
        let maps = fs::read_to_string(format!("/proc/{}/maps", running.pid())).unwrap();
        assert!(mapped(running.pid()).iter().any(|(file, _)| *file == runtime));
        seen.insert(maps.split('-').next().unwrap().to_owned());
        running.kill();
        running.wait_quietly();
        c.delete_force().ok();
    }
    assert!(seen.len() > 1, "{seen:?}");
}
