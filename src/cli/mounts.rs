//! `berth mounts`

use std::path::Path;

use clap::Arg;

use super::{Command, args, get_id, get_path, get_string, id};
use crate::error::{Call, Context, Result};
use crate::spec::{self, Mount};

pub(super) const COMMAND: Command = Command {
    name: "mounts",
    about: "add mounts to a running container, or remove them",
    options_end: false,
    options: |command| {
        command
            .arg(Arg::new("action").value_name("add|remove").required(true).value_parser(["add", "remove"]).help(
                "add: mount everything in FILE, or nothing if one mount fails; remove: unmount the destinations in FILE",
            ))
            .arg(id())
            .arg(args::file("file", "FILE", "a JSON array of mounts, as in the configuration"))
    },
    run: |global, matches| {
        let path = get_path(matches, "file").unwrap_or_default();
        let mounts = read(&path)?;
        let container = global.runtime.lock(get_id(matches))?;
        let result = match get_string(matches, "action").as_deref() {
            Some("add") => container.add_mounts(mounts),
            _ => container.remove_mounts(mounts),
        };
        result.map(|()| 0)
    },
    failure: 1,
    usage: 1,
};

fn read(path: &Path) -> Result<Vec<Mount>> {
    let text = std::fs::read(path).call(|| format!("open({path:?})"))?;
    spec::parse(&text).with_context(|| path.display())
}
