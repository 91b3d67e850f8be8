//! Cgroups made by systemd: starting, changing and stopping the unit of a container by D-Bus.
//!
//! Only `create` and `update` always talk to systemd. `delete` does if the unit still exists, and `exec` if the kernel
//! does not let a user move a process.

mod bus;
mod message;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::plan::systemd::value::Value;
use crate::plan::systemd::{Property, Unit};
use crate::sys::memberships::memberships;
use bus::{Bus, JOB_REMOVED, Refusal, SYSTEMD};
#[cfg(fuzzing)]
pub use message::Message;

/// How long systemd may take for a request. It is pid 1, and serves the whole host.
const PATIENCE: Duration = Duration::from_secs(30);

const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Whether systemd still knows a unit that [`Systemd::start`] started: its properties are in a file.
pub fn keeps(unit: &str, user: bool) -> bool {
    let run = if user { std::env::var_os("XDG_RUNTIME_DIR") } else { Some("/run".into()) };
    run.is_some_and(|run| Path::new(&run).join("systemd/transient").join(unit).exists())
}

/// A service manager: the system's, or the user's.
#[derive(Debug)]
pub struct Systemd {
    bus: Bus,
}

impl Systemd {
    pub fn connect(user: bool) -> Result<Self> {
        let addresses = bus::addresses(user, |name| std::env::var_os(name));
        Bus::connect(&addresses, Instant::now() + PATIENCE).map(|bus| Self { bus }).map_err(|failures| {
            let whose = if user { "the user's service manager (systemd --user)" } else { "systemd as pid 1" };
            let tried: Vec<_> = failures.iter().map(ToString::to_string).collect();
            let tried = if tried.is_empty() { "XDG_RUNTIME_DIR is not set".to_owned() } else { tried.join("; ") };
            let error = Error::new(format_args!("cgroups by systemd need {whose}: {tried}"));
            error.with_hint(if user {
                "log in as the user, or `loginctl enable-linger USER`, and install dbus-user-session; else use the \
                 cgroupfs manager"
            } else {
                "systemd is not running on this host: configure the engine to use the cgroupfs driver"
            })
        })
    }

    /// The cgroup below which the service manager has its units.
    pub fn control_group(&mut self) -> Result<PathBuf> {
        let body = vec![Value::string(MANAGER), Value::string("ControlGroup")];
        let answer = self.bus.call("org.freedesktop.DBus.Properties", "Get", body, Instant::now() + PATIENCE)?;
        let value = answer.map_err(|refusal| explain("ask for its ControlGroup", refusal))?.into_iter().next();
        if let Some(Value::Variant(value)) = &value
            && let Value::String(path) = &**value
        {
            return Ok(path.into());
        }
        Err(Error::new(format_args!("systemd's ControlGroup is not a path: {value:?}")))
    }

    /// Starts a unit that exists as long as its processes, and waits until it exists. `pid` is its first process.
    pub fn start(&mut self, unit: &str, properties: &[Property], pid: i32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let pids = Property::new("PIDs", Value::Array("u".to_owned(), vec![Value::U32(pid.cast_unsigned())]));
        let mut all: Vec<_> = properties.iter().chain([&pids]).collect();
        let mut failed = false;
        loop {
            let list = Value::Array("(sv)".to_owned(), all.iter().map(|p| pair(p)).collect());
            let auxiliary = Value::Array("(sa(sv))".to_owned(), Vec::new());
            let body = vec![Value::string(unit), Value::string("replace"), list, auxiliary];
            let refusal = match self.bus.call(MANAGER, "StartTransientUnit", body, deadline)? {
                Ok(answer) => return self.await_job(answer, &format!("start {unit}"), deadline),
                Err(refusal) => refusal,
            };
            let exists = refusal.name == "org.freedesktop.systemd1.UnitExists";
            if exists && !failed {
                // A failed unit that was not reset blocks only the name.
                failed = true;
                let reset = vec![Value::string(unit)];
                if self.bus.call(MANAGER, "ResetFailedUnit", reset, deadline)?.is_ok() {
                    continue;
                }
            } else if !exists && all.iter().any(|p| p.optional) {
                // An older systemd does not know these. The runtime writes them to the cgroup in any case.
                all.retain(|p| !p.optional);
                continue;
            }
            let error = explain(&format!("start {unit}"), refusal);
            return Err(match exists {
                true => error.with_hint("another container has the same /linux/cgroupsPath"),
                false => error.with_hint("properties may come from annotations: org.systemd.property.NAME"),
            });
        }
    }

    /// Stops a unit and waits until it has gone. It is no error if it has gone already.
    pub fn stop(&mut self, unit: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let body = vec![Value::string(unit), Value::string("replace")];
        match self.bus.call(MANAGER, "StopUnit", body, deadline)? {
            Ok(answer) => self.await_job(answer, &format!("stop {unit}"), deadline)?,
            Err(refusal) if is_unknown(&refusal) => return Ok(()),
            Err(refusal) => return Err(explain(&format!("stop {unit}"), refusal)),
        }
        self.forget(unit)
    }

    /// A failed unit stays until this is called. Others have gone by themselves.
    pub fn forget(&mut self, unit: &str) -> Result<()> {
        let body = vec![Value::string(unit)];
        self.bus.call(MANAGER, "ResetFailedUnit", body, Instant::now() + PATIENCE).map(drop)
    }

    /// Moves a process of the caller into a unit's cgroup, or into the cgroup `below` in it.
    pub fn attach(&mut self, unit: &str, below: &Path, pid: i32) -> Result<()> {
        let below = format!("/{}", below.display());
        let pids = Value::Array("u".to_owned(), vec![Value::U32(pid.cast_unsigned())]);
        let body = vec![Value::string(unit), Value::string(below.as_str()), pids];
        let answer = self.bus.call(MANAGER, "AttachProcessesToUnit", body, Instant::now() + PATIENCE)?;
        answer.map(drop).map_err(|refusal| explain(&format!("add pid {pid} to {below} of {unit}"), refusal))
    }

    /// Changes properties of a unit until the unit ends.
    pub fn set_properties(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut all: Vec<_> = properties.iter().collect();
        loop {
            let list = Value::Array("(sv)".to_owned(), all.iter().map(|p| pair(p)).collect());
            let body = vec![Value::string(unit), Value::Bool(true), list];
            match self.bus.call(MANAGER, "SetUnitProperties", body, deadline)? {
                // systemd writes to the cgroup before it reads the next request, so any request will do.
                Ok(_) => return self.control_group().map(drop),
                Err(_) if all.iter().any(|p| p.optional) => all.retain(|p| !p.optional),
                Err(refusal) => {
                    let error = explain(&format!("set properties of {unit}"), refusal);
                    return Err(error.context("unable to set unit properties"));
                }
            }
        }
    }

    /// Waits for the end of the job that a method has returned.
    fn await_job(&mut self, answer: Vec<Value>, what: &str, deadline: Instant) -> Result<()> {
        let Some(Value::ObjectPath(job)) = answer.into_iter().next() else {
            return Err(Error::new(format_args!("unable to {what}: systemd names no job")));
        };
        // JobRemoved(id, job, unit, result)
        let result = self.bus.signal(what, deadline, |signal| match &signal.body[..] {
            [_, Value::ObjectPath(path), _, Value::String(result)]
                if signal.member == JOB_REMOVED && signal.interface == MANAGER && *path == job =>
            {
                Some(result.clone())
            }
            _ => None,
        })?;
        match result.as_str() {
            "done" => Ok(()),
            result => Err(Error::new(format_args!("unable to {what}: systemd says {result:?}"))
                .with_hint("its log tells more: `journalctl -b`")),
        }
    }
}

fn pair(property: &Property) -> Value {
    Value::Struct(vec![Value::string(property.name.as_str()), Value::Variant(Box::new(property.value.clone()))])
}

fn is_unknown(refusal: &Refusal) -> bool {
    refusal.name == "org.freedesktop.systemd1.NoSuchUnit"
}

fn explain(what: &str, refusal: Refusal) -> Error {
    let error = Error::new(format_args!("unable to {what}: {} ({})", refusal.message, refusal.name));
    match refusal.name.as_str() {
        "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner" => {
            error.with_hint(format_args!("nobody on this bus is {SYSTEMD}: it is not one that systemd started"))
        }
        "org.freedesktop.DBus.Error.AccessDenied" | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => {
            error.with_hint("only root may have units of the system's service manager")
        }
        _ => error,
    }
}

/// The cgroup of a process in the hierarchy of `controllers`, or in v2, by the text of `/proc/PID/cgroup`.
pub(super) fn path_in(cgroups: &[u8], controllers: &[String], unified: bool) -> Option<PathBuf> {
    let is_one = |name: &[u8]| controllers.iter().any(|known| known.as_bytes() == name);
    let found =
        memberships(cgroups).find(|found| if unified { found.is_v2() } else { found.controllers().any(is_one) })?;
    Some(found.path.strip_prefix("/").unwrap_or(found.path).to_owned())
}

/// Whether this is the cgroup of the unit. systemd escapes a name that could be a file of the kernel's.
pub(super) fn is_of(path: &Path, unit: &Unit) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name == unit.name || name.strip_prefix('_') == Some(&unit.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_process_is() {
        let text = "3:cpu,cpuacct:/a\n2:name=systemd:/system.slice/x.scope\n0::/system.slice/x:y.scope\n";
        let at = |controllers: &[&str], unified| {
            let controllers: Vec<_> = controllers.iter().map(ToString::to_string).collect();
            path_in(text.as_bytes(), &controllers, unified).map(|path| path.to_str().unwrap().to_owned())
        };
        assert_eq!(at(&["cpuacct", "cpu"], false).as_deref(), Some("a"));
        assert_eq!(at(&["name=systemd"], false).as_deref(), Some("system.slice/x.scope"));
        assert_eq!(at(&["memory"], true).as_deref(), Some("system.slice/x:y.scope"));
        assert_eq!(at(&["memory"], false), None);
    }

    #[test]
    fn the_cgroup_of_a_unit() {
        let unit = Unit { name: "cpu.a-b.scope".into(), user: false };
        assert!(is_of(Path::new("system.slice/cpu.a-b.scope"), &unit));
        assert!(is_of(Path::new("system.slice/_cpu.a-b.scope"), &unit));
        assert!(!is_of(Path::new("system.slice/docker.service"), &unit));
        assert!(!is_of(Path::new(""), &unit));
    }
}
