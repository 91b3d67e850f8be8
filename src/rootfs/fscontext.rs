//! Making a filesystem: `fsopen(2)`, its parameters, and a mount that is not attached yet.

use std::fmt::Display;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::{Error, Result};
use crate::plan::mounts::Parameter;

/// The longest string for fsconfig(2).
pub const MAX_VALUE: usize = 255;

const UNMAPPED: &str = "the id must have a mapping in the container's user namespace";

/// `attrs` in the encoding of [`crate::plan::mounts::attr`].
pub fn make(kind: &str, source: &str, data: &[Parameter], attrs: u64) -> Result<OwnedFd> {
    let context = mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
        let error = Error::sys(format_args!("fsopen({kind:?})"), errno);
        if errno == Errno::NODEV { error.with_hint("the kernel does not know this filesystem") } else { error }
    })?;
    if !source.is_empty() {
        mount::fsconfig_set_string(&context, c"source", source)
            .map_err(|errno| explain(&context, format_args!("fsconfig(\"source\", {source:?})"), errno))?;
    }
    for parameter in data {
        set(&context, parameter)?;
    }
    mount::fsconfig_create(&context).map_err(|errno| {
        let error = explain(&context, format_args!("mount({kind:?})"), errno);
        match (kind, errno) {
            ("proc", Errno::PERM) => error
                .with_hint("a user namespace may only show a PID namespace of its own: bind the host's /proc instead"),
            ("mqueue", Errno::PERM) => error
                .with_hint("a user namespace may only show an IPC namespace of its own: leave the mount out, or bind"),
            // Some filesystems of older kernels, such as devpts, check their parameters only here.
            (_, Errno::INVAL) if data.iter().any(|parameter| matches!(parameter.key.as_str(), "uid" | "gid")) => {
                error.with_hint(UNMAPPED)
            }
            _ => error,
        }
    })?;
    let attrs = MountAttrFlags::from_bits_retain(attrs.try_into().unwrap_or(u32::MAX));
    mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attrs)
        .map_err(|errno| explain(&context, format_args!("fsmount({kind:?})"), errno))
}

pub fn reconfigure(context: &OwnedFd, data: &[Parameter]) -> Result<()> {
    for parameter in data {
        set(context, parameter)?;
    }
    mount::fsconfig_reconfigure(context).map_err(|errno| explain(context, "fsconfig(reconfigure)", errno))
}

/// The error of a parameter that an option of the configuration has begins with the rest of the option's JSON pointer
/// ([`Error::below`]).
fn set(context: &OwnedFd, parameter: &Parameter) -> Result<()> {
    let Parameter { key, value, option } = parameter;
    let (result, call) = match value {
        Some(value) => {
            (mount::fsconfig_set_string(context, key.as_str(), value.as_str()), format!("fsconfig({key:?}, {value:?})"))
        }
        None => (mount::fsconfig_set_flag(context, key.as_str()), format!("fsconfig({key:?})")),
    };
    match result {
        // Filesystems with versions of inodes always maintain them nowadays, and do not know this option any more.
        Err(Errno::INVAL) if key == "iversion" => Ok(()),
        Err(errno) => {
            let error = explain(context, call, errno);
            let error = match (key.as_str(), errno) {
                ("uid" | "gid", Errno::INVAL) => error.with_hint(UNMAPPED),
                _ => error,
            };
            Err(match option {
                Some(index) => error.context(format_args!("/options/{index}")),
                None => error,
            })
        }
        Ok(()) => Ok(()),
    }
}

/// The filesystem's own messages about a failure are kept in the context. Each read returns one.
fn explain(context: &OwnedFd, call: impl Display, errno: Errno) -> Error {
    let mut said = Vec::new();
    let mut line = [0; 512];
    while let Ok(length) = rustix::io::read(context, &mut line) {
        let text = String::from_utf8_lossy(&line[..length]);
        // "e " error, "w " warning, "i " information
        said.push(text.trim_end().trim_start_matches(['e', 'w', 'i']).trim_start().to_owned());
    }
    match said.is_empty() {
        true => Error::sys(call, errno),
        false => Error::sys(format_args!("{call}: {}", said.join("; ")), errno),
    }
}
