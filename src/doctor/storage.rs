//! File systems: overlay, idmapped mounts, and CRIU, which saves to them.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};

use super::{Level, Report, is_root, list};
use crate::files;
use crate::rootfs::{clone_mapped, namespace_with};
use crate::spec::IdMapping;

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
        // The reason has been told.
        Err(_) => return report.unseen("idmapped mounts", "they take a user namespace"),
    };
    let directories = DIRECTORIES.into_iter().filter(|dir| Path::new(dir).is_dir());
    let (can, cannot): (Vec<&str>, Vec<&str>) =
        directories.partition(|dir| clone_mapped(dir, false, owners.as_fd()).is_ok());
    if cannot.is_empty() {
        report.ok("idmapped mounts", format!("of {}", list(&can)));
    } else {
        let found = format!("not of {}: pods with a user namespace cannot mount from there", list(&cannot));
        report.warning(
            "idmapped mounts",
            found,
            "ext4, xfs and btrfs can since Linux 5.15, tmpfs since 6.3, overlay since 5.19",
        );
    }
}

/// `criu check` is the judge.
fn criu(report: &mut Report) {
    const CURE: &str = "the package criu, which not every distribution has";
    let program = match files::program("criu") {
        Ok(program) => program,
        Err(e) if e.hint().is_some() => {
            return report.warning("CRIU", e.to_string(), "only programs that no other user can write are executed");
        }
        Err(_) => {
            return report.add(Level::Ok, "CRIU", "is not installed: no checkpoint, no restore", Some(CURE.into()));
        }
    };
    if !is_root() {
        return report.unseen("CRIU", "only root can check it");
    }
    // With the environment that it has for a checkpoint, too.
    let mut check = Command::new(&program.path);
    let check = check.arg("check").env_clear().env("PATH", &program.search).stdin(Stdio::null()).output();
    let path = program.path;
    match check {
        Ok(output) if output.status.success() => report.ok("CRIU", format!("{} check: it works", path.display())),
        Ok(output) => {
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
