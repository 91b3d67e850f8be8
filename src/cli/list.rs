//! `berth list`

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::geteuid;

use super::state::Document;
use super::{Command, Global, ROOT, args, print, text};
use crate::error::{Error, Kind, Result, one_line};
use crate::runtime::{Listed, users_hint};

const PASSWD: &str = "/etc/passwd";

pub(super) const COMMAND: Command = Command {
    name: "list",
    about: "list the containers below the root",
    options_end: false,
    options: |command| {
        command
            .arg(args::value("format", "table|json", "the form of the output").short('f').default_value("table"))
            .arg(args::flag("quiet", "print the ids only").short('q'))
    },
    run: |global, matches| {
        let containers = containers(global)?;
        print(&match matches.get_one::<String>("format").map_or("table", String::as_str) {
            _ if matches.get_flag("quiet") => containers.iter().map(|c| format!("{}\n", c.id)).collect(),
            "table" => {
                if containers.is_empty() && !global.root_given {
                    hint(global);
                }
                table(&containers)
            }
            // Go writes a nil slice as null, and that is what callers of runc know.
            "json" if containers.is_empty() => String::from("null\n"),
            "json" => text::json(&serde_json::to_string(&containers).map_err(Error::new)?) + "\n",
            other => return Err(Error::new(format_args!("--format {other}: must be table or json"))),
        })?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};

/// The directories in which dockerd and containerd's shim keep a state root for each of their namespaces.
const OF_ENGINES: [&str; 2] = ["/run/docker/runtime-runc", "/run/containerd/runc"];

/// Names the state roots of engines, if there are any: an engine does not use the default one.
fn hint(global: &Global) {
    let below = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_used = |root: &PathBuf| below(root).next().is_some();
    let mut roots: Vec<_> = OF_ENGINES.iter().flat_map(|dir| below(Path::new(dir))).filter(is_used).collect();
    roots.sort();
    if !roots.is_empty() {
        let commands: Vec<_> = roots.iter().map(|root| format!("`berth --root {} list`", root.display())).collect();
        global.log.hint(&format!("engines have their containers elsewhere: {}", commands.join(", ")));
    }
}

fn containers(global: &Global) -> Result<Vec<Document>> {
    let root = &global.runtime.root;
    // What else may be wrong with it is told below by who opens it.
    if rustix::fs::stat(root).err() == Some(Errno::NOENT) {
        // A user without that variable in the environment cannot have any there.
        if !global.root_given && (*root != Path::new(ROOT) || geteuid().is_root()) {
            return Ok(Vec::new());
        }
        let missing = Error::sys(format_args!("stat({root:?})"), Errno::NOENT);
        return Err(match geteuid().is_root() {
            true => missing,
            false => missing.with_hint(users_hint()),
        });
    }
    let users = std::fs::read(PASSWD).unwrap_or_default();
    let users = String::from_utf8_lossy(&users);
    let owner = |uid| owner(&users, uid);
    let mut documents = Vec::new();
    for listed in global.runtime.list()? {
        // One damaged container must not hide the others.
        match listed? {
            Listed::Container(container) => match Document::new(&container, owner(container.uid())) {
                // It is gone by now.
                Err(e) if e.kind() == Kind::NoContainer => {}
                // It may run all the same.
                Err(e) => {
                    let id = container.id().to_owned();
                    global.log.warning(&e.context(&id).to_string());
                    documents.push(Document::unknown(id, container.created(), owner(container.uid())));
                }
                Ok(document) => documents.push(document),
            },
            Listed::Damaged(damaged) => {
                global.log.warning(&damaged.error.to_string());
                documents.push(Document::unknown(
                    damaged.id,
                    damaged.modified,
                    damaged.uid.map_or_else(String::new, owner),
                ));
            }
        }
    }
    Ok(documents)
}

/// The user's name in the text of passwd(5), else `#` and the number.
fn owner(users: &str, uid: u32) -> String {
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    name.map_or_else(|| format!("#{uid}"), str::to_owned)
}

fn table(containers: &[Document]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from)];
    rows.extend(containers.iter().map(|c| {
        let pid = if c.is_unknown() { String::new() } else { c.pid.to_string() };
        let bundle = one_line(&c.bundle.display().to_string());
        let row = [c.id.clone(), pid, c.status.clone(), bundle, c.created.clone(), c.owner.clone()];
        row.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell })
    }));
    // As runc: cells of at least 12, with 3 spaces between them.
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(&format!("{cell:width$}"));
        }
        text.push_str(&row[5]);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_has_its_head() {
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }

    #[test]
    fn owners_have_names_or_numbers() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbad line\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(owner(users, 1000), "ada");
        assert_eq!(owner(users, 7), "#7");
    }
}
