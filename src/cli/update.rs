//! `berth update`

use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use clap::{Arg, ArgMatches};

use super::{Command, Global, args, get_id, get_path, get_string, id, size};
use crate::error::{Call, Context, Error, Result};
use crate::runtime::UpdateOptions;
use crate::spec::{self, BlockIo, Cpu, Memory, Pids, Resources};

pub(super) const COMMAND: Command = Command {
    name: "update",
    about: "change the limits of a running container",
    options_end: false,
    options,
    run,
    failure: 1,
    usage: 1,
};

fn options(command: clap::Command) -> clap::Command {
    let text = |name, help| args::value(name, "N", help);
    let bytes = |name, help| args::value(name, "BYTES", help);
    let obsolete = |name| Arg::new(name).long(name).hide(true).allow_hyphen_values(true);
    command
        .arg(id())
        .arg(args::path("resources", "FILE", RESOURCES).short('r'))
        .arg(text("blkio-weight", "the weight of block I/O, 10 to 1000"))
        .arg(text("cpu-period", "the period of the CPU quota, in microseconds"))
        .arg(text("cpu-quota", "the CPU time allowed in each period, in microseconds"))
        .arg(text("cpu-burst", "the CPU time that may be saved up for a burst, in microseconds"))
        .arg(text("cpu-share", "the share of CPU time relative to other containers"))
        .arg(text("cpu-rt-period", "the period of the realtime quota, in microseconds"))
        .arg(text("cpu-rt-runtime", "the realtime CPU time allowed in each period, in microseconds"))
        .arg(args::value("cpuset-cpus", "LIST", "the CPUs to run on"))
        .arg(args::value("cpuset-mems", "LIST", "the memory nodes to use"))
        .arg(text("cpu-idle", "1: run only when a CPU is otherwise idle; 0: run normally"))
        .arg(bytes("memory", "the memory limit; suffixes such as 50M are allowed, -1 is unlimited"))
        .arg(bytes("memory-reservation", "the memory that is protected from reclaim"))
        .arg(bytes("memory-swap", "the limit for memory and swap together"))
        .arg(obsolete("kernel-memory"))
        .arg(obsolete("kernel-memory-tcp"))
        .arg(text("pids-limit", "the number of processes and threads; -1 is unlimited"))
        .arg(args::value("l3-cache-schema", "SCHEMA", "the L3 line of the container's resctrl class"))
        .arg(args::value("mem-bw-schema", "SCHEMA", "the MB line of the container's resctrl class"))
}

const RESOURCES: &str =
    "read the limits from FILE or standard input (-), in the form of linux.resources, instead of from options";

fn run(global: &Global, matches: &ArgMatches) -> Result<u8> {
    let id = get_id(matches);
    if get_path(matches, "resources").is_some_and(|path| path == Path::new("-")) {
        // The program that handles the command must find all of standard input.
        global.runtime.load(id)?;
    }
    let resources = match get_path(matches, "resources") {
        Some(path) => read(&path).context("--resources")?,
        None => named(matches)?,
    };
    let get = |name| get_string(matches, name).unwrap_or_default();
    let options =
        UpdateOptions { resources, l3_cache_schema: get("l3-cache-schema"), mem_bw_schema: get("mem-bw-schema") };
    global.runtime.lock(id)?.update(&options)?;
    Ok(0)
}

fn read(path: &Path) -> Result<Resources> {
    let mut text = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut text).call(|| "read(stdin)")?;
    } else {
        text = std::fs::read(path).call(|| format!("open({path:?})"))?;
    }
    spec::parse(&text)
}

fn named(matches: &ArgMatches) -> Result<Resources> {
    let bytes = |name| match get_string(matches, name) {
        Some(text) if text == "-1" => Ok(Some(-1)),
        Some(text) => {
            size::parse(&text).map(Some).ok_or_else(|| invalid(name, &text, "not a size, as 1000, 64k, 512M or 2G"))
        }
        None => Ok(None),
    };
    Ok(Resources {
        memory: Some(Memory {
            limit: bytes("memory")?,
            reservation: bytes("memory-reservation")?,
            swap: bytes("memory-swap")?,
            kernel: bytes("kernel-memory")?,
            kernel_tcp: bytes("kernel-memory-tcp")?,
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: number(matches, "cpu-share")?,
            quota: number(matches, "cpu-quota")?,
            burst: number(matches, "cpu-burst")?,
            period: number(matches, "cpu-period")?,
            realtime_runtime: number(matches, "cpu-rt-runtime")?,
            realtime_period: number(matches, "cpu-rt-period")?,
            cpus: get_string(matches, "cpuset-cpus").unwrap_or_default(),
            mems: get_string(matches, "cpuset-mems").unwrap_or_default(),
            idle: number(matches, "cpu-idle")?,
        }),
        pids: Some(Pids { limit: number(matches, "pids-limit")? }),
        block_io: Some(BlockIo { weight: number(matches, "blkio-weight")?, ..BlockIo::default() }),
        ..Resources::default()
    })
}

/// An empty text counts as not given: scripts pass it for limits that they do not change.
fn number<T: FromStr<Err = std::num::ParseIntError>>(matches: &ArgMatches, name: &str) -> Result<Option<T>> {
    let Some(text) = get_string(matches, name) else { return Ok(None) };
    text.parse().map(Some).map_err(|e: std::num::ParseIntError| invalid(name, &text, &e.to_string()))
}

fn invalid(name: &str, text: &str, why: &str) -> Error {
    Error::new(format_args!("invalid value for {name}: {text:?}: {why}"))
}
