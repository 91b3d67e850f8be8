//! `berth ps`

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command as Program, Stdio};

use clap::{Arg, ArgMatches};
use rustix::io::Errno;

use super::{Command, Global, args, get_id, get_strings, id, print};
use crate::error::{Error, Result};
use crate::files;

pub(super) const COMMAND: Command = Command {
    name: "ps",
    about: "list the processes of a container",
    options_end: true,
    options: |command| {
        command
            .arg(args::value("format", "table|json", "the form of the output").short('f').default_value("table"))
            .arg(id())
            .arg(Arg::new("args").value_name("PS OPTIONS").num_args(0..).help("options for ps(1) [default: -ef]"))
    },
    run,
    failure: 1,
    usage: 1,
};

fn run(global: &Global, matches: &ArgMatches) -> Result<u8> {
    let pids = global.runtime.load(get_id(matches))?.pids()?;
    match matches.get_one::<String>("format").map_or("table", String::as_str) {
        "table" => print_table(&pids, &get_strings(matches, "args"))?,
        // Go writes a nil slice as null, and that is what callers of runc know.
        "json" if pids.is_empty() => print("null\n")?,
        "json" => print(&(serde_json::to_string(&pids).map_err(Error::new)? + "\n"))?,
        other => return Err(Error::new(format_args!("invalid format option {other:?}: must be table or json"))),
    }
    Ok(0)
}

/// The lines of ps(1) for `pids`. ps has no option that selects by pid and keeps the caller's own selection and
/// columns.
fn print_table(pids: &[u32], options: &[String]) -> Result<()> {
    let all = if options.is_empty() { &["-ef".to_owned()][..] } else { options };
    let table = match few(pids, options)? {
        Some(table) => table,
        None => ps(all)?.map_err(|why| Error::new(format_args!("ps {}: {why}", all.join(" "))))?,
    };
    print(select(&table, pids)?.concat())
}

/// The output of `ps -ef` for `pids`, without a look at all other processes of the host. `None` if the caller wants
/// something else, or if `ps` cannot do it.
fn few(pids: &[u32], options: &[String]) -> Result<Option<Vec<u8>>> {
    /// More would be a longer argument than the kernel takes.
    const MANY: usize = 10_000;
    if !options.is_empty() || pids.is_empty() || pids.len() > MANY {
        return Ok(None);
    }
    // By -q, ps reads nothing of other processes, and shows them in this order.
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    Ok(ps(&["-f".to_owned(), "-q".to_owned(), list])?.ok())
}

/// Its output, or why it failed.
fn ps(options: &[String]) -> Result<Result<Vec<u8>, String>> {
    const HINT: &str = "without --format json it takes ps(1), of package procps";
    let ps = files::program("ps").map_err(|e| if e.hint().is_none() { e.with_hint(HINT) } else { e })?;
    let output = Program::new(&ps.path).env("PATH", &ps.search).args(options).stdin(Stdio::null()).output();
    let output = output.map_err(|e| cannot_execute(&ps.path, e.raw_os_error()))?;
    if output.status.success() {
        return Ok(Ok(output.stdout));
    }
    // Its first line says what is wrong; how it is used follows.
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(Err(format!("{}: {}", output.status, said.trim().lines().next().unwrap_or_default())))
}

/// The library does not tell which of its calls has failed.
fn cannot_execute(path: &Path, errno: Option<i32>) -> Error {
    let errno = errno.map_or(Errno::IO, Errno::from_raw_os_error);
    match errno {
        Errno::MFILE | Errno::NFILE => Error::sys("pipe2()", errno),
        Errno::AGAIN => Error::sys("clone()", errno)
            .with_hint("a limit of processes is reached: pids.max of a cgroup, or RLIMIT_NPROC"),
        _ => Error::sys("execve()", errno),
    }
    .context(format_args!("executing {path:?}"))
}

/// The heading, and the lines whose column `PID` is one of `pids`. Names of processes may not be UTF-8.
fn select<'a>(table: &'a [u8], pids: &[u32]) -> Result<Vec<&'a [u8]>> {
    let mut lines = table.split_inclusive(|byte| *byte == b'\n');
    let head = lines.next().unwrap_or_default();
    let column = fields(head).position(|(name, _)| name == b"PID");
    let column = column.ok_or_else(|| Error::new("couldn't find PID field in ps output"))?;
    let end = fields(head).nth(column).map(|(_, end)| end);
    let pids: BTreeSet<_> = pids.iter().copied().collect();
    let mut selected = vec![head];
    for line in lines.filter(|line| !line.trim_ascii().is_empty()) {
        // Names of commands and dates, which have spaces in them, may stand before the pid. So it is the number that
        // ends below the end of its title. A number that is too long for its own column shifts the rest of the line;
        // then the fields are counted.
        let pid = fields(line)
            .find(|&(_, at)| Some(at) == end)
            .and_then(|(field, _)| number(field))
            .or_else(|| fields(line).nth(column).and_then(|(field, _)| number(field)));
        let said = || Error::new(format_args!("no pid in the output of ps: \"{}\"", line.trim_ascii().escape_ascii()));
        let pid = pid.ok_or_else(said)?;
        if pids.contains(&pid) {
            selected.push(line);
        }
    }
    Ok(selected)
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The fields, and the column in which each ends. ps pads by characters, not by bytes.
fn fields(line: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let mut end = 0;
    line.split(u8::is_ascii_whitespace)
        .map(move |field| {
            end += String::from_utf8_lossy(field).chars().count() + 1;
            (field, end - 1)
        })
        .filter(|(field, _)| !field.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_selected_by_the_column_of_the_pid() {
        let table =
            b"UID        PID  PPID CMD\nroot         1     0 init 12\nroot        12     1 sh \xff\n 7 120 12 x\n";
        let lines = select(table, &[12, 99]).unwrap();
        assert_eq!(lines, [&b"UID        PID  PPID CMD\n"[..], b"root        12     1 sh \xff\n"]);
        // The number is not below its title in the last line: the fields are counted.
        assert_eq!(select(table, &[120]).unwrap().len(), 2);
        assert_eq!(select(table, &[]).unwrap().len(), 1);
        assert!(select(b"COMMAND\nsh\n", &[1]).is_err());
        assert!(select(b"", &[1]).is_err());
        let named = "COMMAND             PID\na 7                  12\n\u{e4} b                 120\n".as_bytes();
        assert_eq!(select(named, &[12]).unwrap()[1..], [b"a 7                  12\n"]);
        assert_eq!(select(named, &[120]).unwrap()[1..], ["\u{e4} b                 120\n".as_bytes()]);
        assert_eq!(select(named, &[7]).unwrap().len(), 1);
        let error = select(b"CMD PID\nsh \xff 7\n", &[1]).unwrap_err().to_string();
        assert_eq!(error, r#"no pid in the output of ps: "sh \xff 7""#);
    }
}
