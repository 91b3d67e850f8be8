//! `berth checkpoint`

use std::path::PathBuf;

use clap::{ArgMatches, value_parser};

use super::{Command, args, get_id, get_path, get_string, get_strings, id};
use crate::error::{Error, Result};
use crate::runtime::{CgroupsMode, CheckpointOptions, CriuOptions, NetworkLock};

pub(super) const COMMAND: Command = Command {
    name: "checkpoint",
    about: "save a running container to files, with CRIU",
    options_end: false,
    options,
    run: |global, matches| {
        let options = read(matches)?;
        global.runtime.lock(get_id(matches))?.checkpoint(&options)?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};

fn options(command: clap::Command) -> clap::Command {
    common(command, "where CRIU keeps its log [default: with the images]")
        .arg(args::path("parent-path", "DIR", "the images of the pre-dump before this one, relative to --image-path"))
        .arg(args::flag("leave-running", "leave the container running"))
        .arg(args::flag("tcp-skip-in-flight", "skip TCP connections that are not established yet"))
        .arg(args::flag("link-remap", "link deleted files that are still open to a name, if possible"))
        .arg(
            args::value("status-fd", "FD", "write a NUL byte to FD when lazy pages can be requested")
                .value_parser(value_parser!(i32)),
        )
        .arg(args::value("page-server", "ADDRESS:PORT", "send memory to the page server at this address"))
        .arg(args::flag("pre-dump", "save only memory, and leave the container running"))
}

/// The options that `checkpoint` and `restore` share.
pub(super) fn common(command: clap::Command, work_path: &'static str) -> clap::Command {
    command
        .arg(id())
        .arg(args::path("image-path", "DIR", "where the images are [default: checkpoint]"))
        .arg(args::path("work-path", "DIR", work_path))
        .arg(args::flag("tcp-established", "save or restore open TCP connections"))
        .arg(args::flag("ext-unix-sk", "allow unix sockets that are connected to processes outside"))
        .arg(args::flag("shell-job", "allow a session or terminal of processes outside"))
        .arg(args::flag("file-locks", "save or restore file locks"))
        .arg(args::flag("lazy-pages", "transfer memory on demand"))
        .arg(args::flag("auto-dedup", "remove pages from earlier images that later ones contain"))
        .arg(args::value(
            "manage-cgroups-mode",
            "soft|full|strict|ignore",
            "what CRIU does with cgroups [default: soft]",
        ))
        .arg(args::list("empty-ns", "network", "restore the network namespace without its interfaces; always done"))
        .arg(args::value("network-lock", "iptables|nftables|skip", "how packets are held back; skip: not at all"))
}

pub(super) fn read_common(matches: &ArgMatches) -> Result<CriuOptions> {
    if let Some(name) = get_strings(matches, "empty-ns").iter().find(|name| *name != "network") {
        return Err(Error::new(format_args!("--empty-ns: namespace {name:?} is not supported")));
    }
    let image_path = get_path(matches, "image-path").unwrap_or_else(|| PathBuf::from("checkpoint"));
    Ok(CriuOptions {
        image_path: args::absolute(&image_path)?,
        work_path: get_path(matches, "work-path").map(|path| args::absolute(&path)).transpose()?,
        tcp_established: matches.get_flag("tcp-established"),
        ext_unix_sk: matches.get_flag("ext-unix-sk"),
        shell_job: matches.get_flag("shell-job"),
        file_locks: matches.get_flag("file-locks"),
        auto_dedup: matches.get_flag("auto-dedup"),
        lazy_pages: matches.get_flag("lazy-pages"),
        cgroups: choice(matches, "manage-cgroups-mode", &CgroupsMode::NAMES)?.unwrap_or_default(),
        network_lock: choice(matches, "network-lock", &NetworkLock::NAMES)?,
    })
}

fn choice<T: Copy>(matches: &ArgMatches, option: &str, names: &[(&str, T)]) -> Result<Option<T>> {
    let Some(given) = get_string(matches, option) else { return Ok(None) };
    let found = names.iter().find(|(name, _)| *name == given);
    found.map(|(_, value)| Some(*value)).ok_or_else(|| {
        let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
        Error::new(format_args!("invalid --{option} value {given:?}: must be one of {}", names.join(", ")))
    })
}

fn read(matches: &ArgMatches) -> Result<CheckpointOptions> {
    Ok(CheckpointOptions {
        criu: read_common(matches)?,
        parent_path: get_path(matches, "parent-path"),
        pre_dump: matches.get_flag("pre-dump"),
        leave_running: matches.get_flag("leave-running"),
        tcp_skip_in_flight: matches.get_flag("tcp-skip-in-flight"),
        link_remap: matches.get_flag("link-remap"),
        // -1 is how Go programs say that there is none.
        status_fd: matches.get_one("status-fd").copied().filter(|fd| *fd >= 0),
        page_server: get_string(matches, "page-server").map(|text| server(&text)).transpose()?,
    })
}

/// `HOST:PORT`, the host in brackets where it has colons itself.
fn server(text: &str) -> Result<(String, u16)> {
    let wrong = || Error::new(format_args!("--page-server {text:?}: must be ADDRESS:PORT"));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match port.parse() {
        Ok(port) if port != 0 && !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::server;

    #[test]
    fn page_servers() {
        assert_eq!(server("0.0.0.0:27277").unwrap(), ("0.0.0.0".to_owned(), 27277));
        assert_eq!(server("[::1]:1").unwrap(), ("::1".to_owned(), 1));
        for text in ["", "host", "host:", ":1", "host:0", "host:x", "host:65536", "[]:1"] {
            assert!(server(text).is_err(), "{text}");
        }
    }
}
