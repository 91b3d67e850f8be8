//! A container in which berth prints its own version: it takes all that most containers take.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, mkdir, open};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use serde_json::json;

use super::{Report, is_root};
use crate::error;
use crate::library::{CreateOptions, Result, Runtime, Spec, Stdio};
use crate::runtime::CgroupManager;
use crate::sys::signal::{SignalSet, sigmask};

const PATIENCE: Duration = Duration::from_secs(30);

pub fn examine(report: &mut Report, manager: CgroupManager) {
    // Root may have another user's TMPDIR. Not every container has a /run.
    let parent = match is_root() {
        true if Path::new("/run").is_dir() => PathBuf::from("/run"),
        true => PathBuf::from("/"),
        false => std::env::temp_dir(),
    };
    // Who is told to end does so afterwards: otherwise the container stays.
    let before = sigmask(&SignalSet::full());
    let outcome = make(&parent).and_then(|dir| {
        let outcome = run(&dir, manager);
        // What the container left is gone, so only what `make` made is left.
        let _ = std::fs::remove_dir_all(&dir);
        outcome
    });
    sigmask(&before);
    match outcome {
        Ok(()) => report.ok("container", "one was made, it ran, and it was removed"),
        Err(e) => {
            let cure = e.hint().unwrap_or("the other errors may tell why").to_owned();
            report.error("container", e.to_string(), cure);
        }
    }
}

/// The bundle, for nobody else, under a name that nobody has taken.
fn make(parent: &Path) -> Result<PathBuf> {
    const TRIES: usize = 16;
    let mut dir = PathBuf::new();
    let mut made = Err(Errno::EXIST);
    for _ in 0..TRIES {
        dir = parent.join(format!("berth-doctor-{:x}", RandomState::new().hash_one(())));
        made = mkdir(&dir, Mode::RWXU);
        if made != Err(Errno::EXIST) {
            break;
        }
    }
    let failed = |errno| error::Error::sys(format_args!("mkdir({dir:?})"), errno);
    made.map_err(failed)?;
    fill(&dir).map_err(|errno| {
        let _ = std::fs::remove_dir_all(&dir);
        failed(errno)
    })?;
    Ok(dir)
}

fn fill(dir: &Path) -> rustix::io::Result<()> {
    for name in ["rootfs", "rootfs/proc", "rootfs/dev", "state"] {
        mkdir(dir.join(name), Mode::from_raw_mode(0o755))?;
    }
    open(dir.join("rootfs/berth"), OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR).map(drop)
}

fn run(dir: &Path, manager: CgroupManager) -> Result<()> {
    let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut config = json!({
        "ociVersion": crate::spec::VERSION,
        "process": {"args": ["/berth", "--version"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true},
        "root": {"path": dir.join("rootfs")},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/berth", "type": "bind", "source": program, "options": ["bind", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    });
    if is_root() {
        let systemd = manager == CgroupManager::Systemd;
        let path = if systemd { format!("system.slice:berth:{id}") } else { format!("/{id}") };
        config["linux"]["cgroupsPath"] = json!(path);
    } else {
        let map = |own: u32| json!([{"containerID": 0, "hostID": own, "size": 1}]);
        config["linux"]["uidMappings"] = map(geteuid().as_raw());
        config["linux"]["gidMappings"] = map(getegid().as_raw());
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.push(json!({"type": "user"}));
        }
    }
    let runtime = Runtime::builder(dir.join("state")).cgroup_manager(manager).build();
    let options = CreateOptions::new().spec(Spec::from_json(config.to_string())?).stdio(Stdio::null());
    let container = runtime.create(&id, dir, options)?;
    let ended = container.start().and_then(|()| match container.process() {
        Some(process) => process.wait_timeout(PATIENCE),
        None => Ok(None),
    });
    container.delete(true)?;
    match ended? {
        Some(status) if status.code() == Some(0) => Ok(()),
        Some(status) => {
            Err(error::Error::new(format_args!("its process ended with {}", status.shell_code().unwrap_or(-1))).into())
        }
        None => Err(error::Error::new("its process did not end within 30 seconds").into()),
    }
}
