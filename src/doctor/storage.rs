//! File systems: overlay, idmapped mounts, and CRIU, which saves to them.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Level, Report, is_root, list};
use crate::files;
use crate::rootfs::{clone_mapped, namespace_with};
use crate::spec::IdMapping;
use crate::sys::wait::ends_within;

/// Where engines and pods keep what they mount into containers.
const DIRECTORIES: [&str; 6] =
    ["/var/lib/containerd", "/var/lib/docker", "/var/lib/containers", "/var/lib/kubelet", "/var", "/tmp"];

pub fn examine(report: &mut Report) {
    overlay(report);
    idmapped(report);
    criu(report);
}

fn overlay(report: &mut Report) {
    // As root this loads the module, as the first container would.
    let known = std::fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|l| l.trim() == "nodev\toverlay"));
    match if known { Ok(()) } else { fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).map(drop) } {
        Ok(()) => report.ok("overlay", "the kernel has it"),
        Err(Errno::PERM) => report.unseen("overlay", "only root can load its module: modprobe overlay"),
        Err(_) => report.warning(
            "overlay",
            "the kernel lacks it: engines copy whole images instead",
            "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS",
        ),
    }
}

fn idmapped(report: &mut Report) {
    if !is_root() {
        return report.unseen("idmapped mounts", "only root can make them");
    }
    let one = [IdMapping { container_id: 0, host_id: 0, size: 1 }];
    let owners = match namespace_with(&one, &one) {
        Ok(owners) => owners,
        Err(e) => return report.unseen("idmapped mounts", e.to_string()),
    };
    let (mut can, mut cannot) = (Vec::new(), Vec::new());
    for dir in DIRECTORIES.into_iter().filter(|dir| Path::new(dir).is_dir()) {
        match clone_mapped(dir, false, owners.as_fd()) {
            Ok(_) => can.push(dir),
            Err(e) if e.errno() == Some(Errno::PERM) => {
                return report.unseen("idmapped mounts", "they take the capability CAP_SYS_ADMIN");
            }
            Err(_) => cannot.push(dir),
        }
    }
    if cannot.is_empty() {
        report.ok("idmapped mounts", format!("of {}", list(&can)));
    } else {
        let found = format!("not of {}: pods with a user namespace cannot mount from there", list(&cannot));
        report.notice("idmapped mounts", found, "put it on ext4, xfs or btrfs, with Linux 5.15 or later");
    }
}

/// `criu check` is the judge.
fn criu(report: &mut Report) {
    const CURE: &str = "the package criu, which not every distribution has";
    if !is_root() {
        return report.unseen("CRIU", "only root can check it");
    }
    let program = match files::program("criu") {
        Ok(program) => program,
        Err(e) if e.hint().is_some() => {
            return report.warning("CRIU", e.to_string(), "only programs that no other user can write are executed");
        }
        Err(e) => {
            return report.add(Level::Ok, "CRIU", format!("{e}: no checkpoint, no restore"), Some(CURE.into()));
        }
    };
    let path = program.path.clone();
    let check = run_check(&program);
    match check {
        Ok(None) => report.warning(
            "CRIU",
            format!("{} check: it does not end", path.display()),
            "criu check -v4 tells where it waits",
        ),
        Ok(Some(output)) if output.status.success() => report.ok("CRIU", format!("{} check: it works", path.display())),
        Ok(Some(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed").to_owned();
            report.warning(
                "CRIU",
                format!("{} check: {last}", path.display()),
                "criu check --all tells what the kernel lacks",
            );
        }
        Err(e) => report.warning("CRIU", format!("{}: {e}", path.display()), CURE),
    }
}

/// `None` if it takes too long. It has the environment that it has for a checkpoint, too.
fn run_check(program: &files::Program) -> std::io::Result<Option<Output>> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let mut command = Command::new(&program.path);
    command.arg("check").env_clear().env("PATH", &program.search);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    if !ends_within(pidfd.as_fd(), PATIENCE)? {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    child.wait_with_output().map(Some)
}
