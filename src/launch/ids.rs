//! The id maps of a new user namespace (user_namespaces(7)).

use std::io::Write as _;
use std::process::{Command, Stdio};

use rustix::io::Errno;

use crate::error::{Call, Context, Error, Result};
use crate::files;
use crate::plan::idmap;
use crate::spec::IdMapping;

/// Writes both maps for the process `pid`, a child that waits in its new user namespace.
pub fn map(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<()> {
    let euid = rustix::process::geteuid().as_raw();
    let egid = rustix::process::getegid().as_raw();
    write_map(pid, &Map { file: "uid_map", field: "uidMappings", helper: "newuidmap", own: euid, mappings: uids })?;
    let gids = Map { file: "gid_map", field: "gidMappings", helper: "newgidmap", own: egid, mappings: gids };
    if euid != 0 && gids.is_own() {
        // Without CAP_SETGID a gid map can be written only once setgroups(2) is off for good: otherwise it could
        // be used to leave a group that denies access.
        let path = format!("/proc/{pid}/setgroups");
        std::fs::write(&path, "deny").call(|| format!("write({path:?}, \"deny\")"))?;
    }
    write_map(pid, &gids)
}

struct Map<'a> {
    file: &'static str,
    field: &'static str,
    helper: &'static str,
    own: u32,
    mappings: &'a [IdMapping],
}

impl Map<'_> {
    /// The only map that an unprivileged process may write: its own id alone.
    fn is_own(&self) -> bool {
        matches!(self.mappings, [IdMapping { host_id, size: 1, .. }] if *host_id == self.own)
    }
}

fn write_map(pid: i32, map: &Map) -> Result<()> {
    let text = idmap::table(map.mappings);
    let path = format!("/proc/{pid}/{}", map.file);
    // The kernel takes a map in one write only.
    let written =
        std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    match written.call(|| format!("write({path:?}, {:?})", text.trim_end())) {
        Err(e) if e.errno() == Some(Errno::PERM) && !map.is_own() => helper(pid, map),
        result => result,
    }
    .with_context(|| format!("/linux/{}", map.field))
}

/// newuidmap(1) and newgidmap(1) give an ordinary user the ranges that `/etc/subuid` and `/etc/subgid` grant.
fn helper(pid: i32, map: &Map) -> Result<()> {
    const HINT: &str = "an ordinary user needs newuidmap and newgidmap (package uidmap or shadow-utils)";
    let program = files::program(map.helper).map_err(|e| if e.hint().is_none() { e.with_hint(HINT) } else { e })?;
    let mut command = Command::new(&program.path);
    command.arg(pid.to_string()).stdin(Stdio::null());
    for m in map.mappings {
        command.args([m.container_id.to_string(), m.host_id.to_string(), m.size.to_string()]);
    }
    let output = command.output().call(|| format!("exec({:?})", program.path))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches(map.helper).trim_start_matches(": ");
    Err(Error::new(format_args!("{}: {said}", map.helper))
        .with_hint("the ranges must be granted in /etc/subuid and /etc/subgid"))
}
