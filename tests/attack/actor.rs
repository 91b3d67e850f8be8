//! What an attacker does inside a container by system calls for which busybox has no program.
//!
//! The attacker is this very test program, which is static: it is mounted into the container and runs one test,
//! [`act`], which does what its environment says. What it prints begins with [`MARK`].
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use serde_json::json;

use crate::harness::{Config, Container, Output, Test};

const PLACE: &str = "/actor";
const DEED: &str = "ACTOR_DEED";
const MARK: &str = "ACTOR: ";

/// A container in which [`command`] can be executed.
pub fn container(t: &Test, config: Config) -> Container<'_> {
    let source = std::env::current_exe().unwrap();
    let mount = json!({ "destination": PLACE, "type": "bind", "source": source, "options": ["bind", "ro"] });
    let c = t.container(config.mount(mount));
    // The root of a user namespace may not make it.
    std::fs::write(c.rootfs().join(&PLACE[1..]), "").unwrap();
    c
}

/// The program and its arguments, by way of a shell for the environment.
pub fn command(deed: &str) -> Vec<String> {
    ["/bin/env", &format!("{DEED}={deed}"), PLACE, "--exact", "actor::act", "--nocapture", "--test-threads=1"]
        .map(str::to_owned)
        .to_vec()
}

/// What the actor had to say.
pub fn told(output: &Output) -> String {
    let lines: Vec<_> = output.stdout.lines().filter_map(|line| line.split_once(MARK)).map(|(_, text)| text).collect();
    assert!(!lines.is_empty(), "the actor did not act: {output}");
    lines.join("\n")
}

/// Not a test: nothing is done outside of a container.
#[test]
fn act() {
    let Ok(deed) = std::env::var(DEED) else { return };
    let words: Vec<_> = deed.split(' ').collect();
    let done = match words.as_slice() {
        ["trace", pid] => trace(pid.parse().unwrap()),
        ["trace-all"] => trace_all(),
        ["trace-threads"] => trace_threads(),
        ["exit-beside-a-traced-thread"] => exit_beside_a_traced_thread(),
        ["hold-exit", pid] => hold_exit(pid.parse().unwrap()),
        ["stop-others"] => stop_others(),
        ["have-a-thread-traced", path] => have_a_thread_traced(path),
        ["stop-for-the-parent", path] => stop_for_the_parent(path),
        ["make-siblings", count] => make_siblings(count.parse().unwrap()),
        ["end-main-thread"] => end_main_thread(),
        ["overwrite"] => overwrite(),
        ["climb"] => climb(),
        ["rejoin"] => rejoin(),
        ["type"] => type_into(0).or_else(|_| type_into(1)).or_else(|_| type_into(2)),
        ["keep-key", text] => keep_key(text),
        ["find-key"] => find_key(),
        ["session-keyring"] => keyctl(libc::KEYCTL_GET_KEYRING_ID, SESSION, 0, 0).map(|serial| serial.to_string()),
        ["steal-key", id, serial] => Ok(steal_key(id, serial.parse().unwrap())),
        other => panic!("{other:?}"),
    };
    let said =
        done.unwrap_or_else(|e| Errno::from_io_error(&e).map_or_else(|| e.to_string(), |errno| errno.to_string()));
    said.lines().for_each(|line| println!("\n{MARK}{line}"));
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn trace(pid: i32) -> io::Result<String> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes no address.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) })?;
    Ok("traced".to_owned())
}

/// Whatever comes into the PID namespace and can be traced. It never asks how that has ended.
fn trace_all() -> ! {
    loop {
        others().into_iter().for_each(|pid| drop(trace(pid)));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// The processes that come into the PID namespace, by their numbers.
fn others() -> Vec<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    numbers("/proc").into_iter().filter(|pid| *pid != own).collect()
}

fn numbers(dir: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// As [`trace_all`], but for the first thread of each process.
fn trace_threads() -> ! {
    loop {
        for pid in others() {
            for thread in numbers(&format!("/proc/{pid}/task")).into_iter().filter(|thread| *thread != pid) {
                let _ = trace(thread);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn exit_beside_a_traced_thread() -> ! {
    std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(1000)));
    let is_traced = |thread: i32| {
        let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    while !numbers("/proc/self/task").into_iter().any(is_traced) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    std::process::exit(7);
}

/// The process stops on its way to its end, and stays there.
fn hold_exit(pid: i32) -> io::Result<String> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes options, and no address.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, libc::PTRACE_O_TRACEEXIT as usize) })?;
    fs::write("/held", "held\n")?;
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}

/// The other threads run on, this one among them.
fn end_main_thread() -> ! {
    extern "C" fn end(_: i32) {
        // SAFETY: a number is all that it takes. exit(2) ends the thread that is interrupted.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    in_main_thread(end);
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}

/// `what` may only make system calls.
fn in_main_thread(what: extern "C" fn(i32)) {
    let main = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: the handler is one, and makes only system calls.
    unsafe {
        libc::signal(libc::SIGUSR1, what as *const () as libc::sighandler_t);
        libc::syscall(libc::SYS_tgkill, main, main, libc::SIGUSR1);
    }
}

/// Stops whatever comes into the PID namespace, as soon as it is there.
fn stop_others() -> ! {
    loop {
        for pid in 2..200 {
            // SAFETY: the call takes numbers only.
            unsafe { libc::kill(pid, libc::SIGSTOP) };
        }
    }
}

/// The runtime's thread that has made this process is gone by then: the kernel lets go of what that one traces.
const LATER: std::time::Duration = std::time::Duration::from_millis(500);

/// By its parent, outside of the container. The thread ends.
fn have_a_thread_traced(path: &str) -> io::Result<String> {
    std::thread::sleep(LATER);
    std::thread::spawn(traceme).join().unwrap()?;
    fs::write(path, "traced\n")?;
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}

fn traceme() -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_TRACEME takes no address.
    check(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) }).map(drop)
}

/// For good, since its parent does not know that it traces it.
fn stop_for_the_parent(path: &str) -> io::Result<String> {
    extern "C" fn stop(_: i32) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: neither takes an address.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, none, none);
            libc::raise(libc::SIGUSR2);
        }
    }
    std::thread::sleep(LATER);
    fs::write(path, "stopped\n")?;
    in_main_thread(stop);
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}

/// Children of its parent, outside of the container, that end at once.
fn make_siblings(count: usize) -> io::Result<String> {
    for _ in 0..count {
        // SAFETY: the call takes numbers only, and the child, which has memory of its own, makes one system call.
        unsafe {
            let flags = libc::CLONE_PARENT | libc::SIGCHLD;
            if check(libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0))? == 0 {
                libc::_exit(0);
            }
        }
    }
    Ok("made".to_owned())
}

/// Has a terminal believe that somebody typed.
fn type_into(stream: i32) -> io::Result<String> {
    // SAFETY: the call reads one byte.
    check(unsafe { libc::ioctl(stream, libc::TIOCSTI, c"x".as_ptr()) }.into())?;
    Ok("typed".to_owned())
}

/// Opens what other processes execute and map, and writes to it.
fn overwrite() -> io::Result<String> {
    let mut said = String::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let proc = entry.path();
        if entry.file_name().to_str().and_then(|pid| pid.parse().ok()).is_none_or(|pid: u32| pid == std::process::id())
        {
            continue;
        }
        let maps = fs::read_dir(proc.join("map_files")).into_iter().flatten().flatten().map(|entry| entry.path());
        for link in maps.chain([proc.join("exe")]) {
            let (Ok(name), Ok(file)) = (fs::read_link(&link), fs::File::open(&link)) else { continue };
            let again = format!("/proc/self/fd/{}", file.as_raw_fd());
            let written = fs::File::options().append(true).open(again).and_then(|mut file| file.write(b"x"));
            let outcome = if written.is_ok() { "WRITTEN" } else { "refused" };
            said += &format!("{} {}: {outcome}\n", name.display(), link.display());
        }
    }
    Ok(said)
}

/// The oldest way out of a chroot(2): a process keeps a directory that is above a second one. Returns the
/// root that it gets to.
fn climb() -> io::Result<String> {
    let below = "/tmp/below";
    fs::create_dir_all(below)?;
    let above = fs::File::open("/")?;
    rustix::process::chroot(below)?;
    rustix::process::fchdir(&above)?;
    for _ in 0..100 {
        rustix::process::chdir("..")?;
    }
    rustix::process::chroot(".")?;
    root_directory()
}

/// Who joins a mount namespace gets its root, also who is in it.
fn rejoin() -> io::Result<String> {
    use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    // A thread that shares its root with others may not join.
    // SAFETY: this thread opens nothing that another one would look for.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS)? };
    move_into_thread_name_spaces(own.as_fd(), ThreadNameSpaceType::MOUNT)?;
    root_directory()
}

/// `device:inode`.
fn root_directory() -> io::Result<String> {
    let stat = rustix::fs::stat("/")?;
    Ok(format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Maps a whole file into this process, for good, with all its pages. Returns the addresses.
pub fn map(file: &fs::File) -> std::ops::Range<u64> {
    let length = file.metadata().unwrap().len() as usize;
    let (none, flags) = (std::ptr::null_mut(), libc::MAP_PRIVATE | libc::MAP_POPULATE);
    // SAFETY: a new mapping touches no memory that is there.
    let address = unsafe { libc::mmap(none, length, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
    assert_ne!(address, libc::MAP_FAILED);
    address as u64..address as u64 + length as u64
}

const SESSION: i64 = libc::KEY_SPEC_SESSION_KEYRING as i64;
const KIND: *const libc::c_char = c"user".as_ptr();
const KEY: *const libc::c_char = c"ticket".as_ptr();

fn keyctl(operation: u32, a: i64, b: usize, c: usize) -> io::Result<i64> {
    // SAFETY: what is passed for addresses below lives on, and is as long as is said.
    check(unsafe { libc::syscall(libc::SYS_keyctl, operation, a, b, c, 0_usize) })
}

/// Has a key in its session keyring from now on.
fn keep_key(text: &str) -> io::Result<String> {
    // SAFETY: two C strings, and as many bytes as the text has.
    check(unsafe {
        libc::syscall(libc::SYS_add_key, KIND, KEY, text.as_ptr(), text.len(), libc::KEY_SPEC_SESSION_KEYRING)
    })?;
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}

fn find_key() -> io::Result<String> {
    read_key(keyctl(libc::KEYCTL_SEARCH, SESSION, KIND.addr(), KEY.addr())?)
}

fn read_key(serial: i64) -> io::Result<String> {
    let mut text = [0_u8; 100];
    let length = keyctl(libc::KEYCTL_READ, serial, text.as_mut_ptr().expose_provenance(), text.len())?;
    Ok(String::from_utf8_lossy(&text[..length as usize]).into_owned())
}

/// Tries to get at the key of the container `id`: by every name that it may have or that is shown, and by the number of
/// its keyring, which one could try out.
fn steal_key(id: &str, serial: i64) -> String {
    let keys = std::fs::read_to_string("/proc/keys").unwrap();
    let shown = keys.lines().filter_map(|line| line.split_whitespace().nth(8)).map(|name| name.trim_end_matches(':'));
    let names = shown.filter(|name| name.contains(id)).map(str::to_owned);
    let mut stolen = Vec::new();
    for name in names.chain([format!("_ses.{id}"), id.to_owned()]) {
        let c_name = std::ffi::CString::new(name.clone()).unwrap();
        if keyctl(libc::KEYCTL_JOIN_SESSION_KEYRING, c_name.as_ptr().expose_provenance() as i64, 0, 0).is_ok() {
            stolen.extend(find_key().map(|key| format!("{key} by the name {name}")));
        }
    }
    let mut text = [0_u8; 100];
    let (buffer, length) = (text.as_mut_ptr().expose_provenance(), text.len());
    stolen.extend(keyctl(libc::KEYCTL_DESCRIBE, serial, buffer, length).map(|_| "its name by its number".to_owned()));
    stolen.extend(keyctl(libc::KEYCTL_READ, serial, buffer, length).map(|_| "its keys by its number".to_owned()));
    stolen.extend(keyctl(libc::KEYCTL_SETPERM, serial, 0x3f3f_3f3f, 0).map(|_| "its rights by its number".to_owned()));
    stolen.extend(keyctl(libc::KEYCTL_LINK, serial, SESSION as usize, 0).map(|_| "a link to it".to_owned()));
    let found = keyctl(libc::KEYCTL_SEARCH, serial, KIND.addr(), KEY.addr()).and_then(read_key);
    stolen.extend(found.map(|key| format!("{key} by its number")));
    if stolen.is_empty() { "nothing".to_owned() } else { stolen.join("\n") }
}
