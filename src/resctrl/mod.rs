//! Putting a container into a class of service of resctrl, which the specification calls `linux.intelRdt`.

mod stats;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, statat, statfs, unlinkat};
use rustix::io::Errno;

use crate::error::{Call, Context, Error, Result};
use crate::plan::intel_rdt::{Group, IntelRdt, is_satisfied};
use crate::sys::mountinfo;

pub use stats::{Stats, stats};

const RDTGROUP_SUPER_MAGIC: u64 = 0x0765_5821;
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the root of the mounted resctrl filesystem.
pub fn root() -> Result<OwnedFd> {
    let usual = Path::new("/sys/fs/resctrl");
    let path = match statfs(usual) {
        Ok(fs) if u64::try_from(fs.f_type) == Ok(RDTGROUP_SUPER_MAGIC) => usual.to_owned(),
        _ => mounted_elsewhere().ok_or_else(absent)?,
    };
    rustix::fs::open(&path, DIRECTORY, Mode::empty()).call(|| format!("open({path:?})"))
}

/// The list is read only if it is not mounted at the usual place.
fn mounted_elsewhere() -> Option<PathBuf> {
    let text = std::fs::read("/proc/thread-self/mountinfo").ok()?;
    mountinfo::entries(&text).find(|entry| entry.kind == b"resctrl").map(|entry| entry.point)
}

fn absent() -> Error {
    let known = std::fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("resctrl"));
    let hint = if known {
        "mount it: mount -t resctrl resctrl /sys/fs/resctrl"
    } else {
        "the kernel or the processor of this host has no resource director technology"
    };
    Error::config("/linux/intelRdt", "no resctrl filesystem is mounted").with_hint(hint)
}

/// Puts the process `pid` into its class. Returns whether the class was made, which [`remove`] has to know.
pub fn apply(root: BorrowedFd<'_>, plan: &IntelRdt, pid: i32) -> Result<bool> {
    let (group, created) = open_group(root, plan)?;
    let entered = enter(root, group.as_fd(), plan, created, pid);
    if entered.is_err() {
        // The first error is the one to report.
        let _ = remove(root, plan, created);
        if created {
            let _ = unlinkat(root, plan.group.name(), AtFlags::REMOVEDIR);
        }
    }
    entered.map(|()| created)
}

/// Whether the processor controls this resource: `L3`, `MB`.
pub fn has(root: BorrowedFd<'_>, resource: &str) -> bool {
    statat(root, format!("info/{resource}"), AtFlags::empty()).is_ok()
}

/// Changes those schemata of the container's class that `lines` names.
pub fn update(root: BorrowedFd<'_>, plan: &IntelRdt, lines: &[String]) -> Result<()> {
    let path = format!("{}/schemata", plan.group.name());
    write(root, root, &path, &(lines.join("\n") + "\n"))
}

/// Removes what [`apply`] has made, unless others may use it.
pub fn remove(root: BorrowedFd<'_>, plan: &IntelRdt, created: bool) -> Result<()> {
    let path = match (&plan.group, &plan.monitoring) {
        // Its monitoring groups are removed with it.
        (Group::Own(name), _) if created => name.clone(),
        (group, Some(monitoring)) => monitoring_path(group, monitoring),
        _ => return Ok(()),
    };
    match unlinkat(root, &path, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed.call(|| format!("rmdir(resctrl {path:?})")),
    }
}

fn monitoring_path(group: &Group, monitoring: &str) -> String {
    format!("{}/mon_groups/{monitoring}", group.name())
}

fn open_group(root: BorrowedFd<'_>, plan: &IntelRdt) -> Result<(OwnedFd, bool)> {
    let name = plan.group.name();
    let created = match &plan.group {
        Group::Default | Group::Existing(_) => false,
        Group::Shared(_) | Group::Own(_) => make(root, name)?,
    };
    let group = openat(root, name, DIRECTORY, Mode::empty()).call(|| format!("open(resctrl {name:?})"));
    let hint = "without a schema in the configuration, the class of service must exist already";
    Ok((group.map_err(|e| if e.errno() == Some(Errno::NOENT) { e.with_hint(hint) } else { e })?, created))
}

/// Returns false for a directory that was there.
fn make(root: BorrowedFd<'_>, path: &str) -> Result<bool> {
    match mkdirat(root, path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => {
            let e = Error::sys(format_args!("mkdir(resctrl {path:?})"), errno);
            let e =
                if errno == Errno::NOSPC { e.with_hint("every class takes one of a few ids (num_closids)") } else { e };
            Err(explain(root, e))
        }
    }
}

fn enter(root: BorrowedFd<'_>, group: BorrowedFd<'_>, plan: &IntelRdt, created: bool, pid: i32) -> Result<()> {
    if !plan.schemata.is_empty() {
        if !created && matches!(plan.group, Group::Shared(_) | Group::Default) {
            compare(root, group, plan)?;
        }
        let text: String = plan.schemata.iter().map(|line| format!("{line}\n")).collect();
        write(root, group, "schemata", &text)?;
    }
    write(root, group, "tasks", &pid.to_string())?;
    if let Some(monitoring) = &plan.monitoring {
        let path = monitoring_path(&plan.group, monitoring);
        make(root, &path)?;
        write(root, root, &format!("{path}/tasks"), &pid.to_string())?;
    }
    Ok(())
}

/// A class that others use as well must not change for them.
fn compare(root: BorrowedFd<'_>, group: BorrowedFd<'_>, plan: &IntelRdt) -> Result<()> {
    let current = read(group, "schemata").context("class of service")?;
    let step = read(root, "info/MB/bandwidth_gran").ok().and_then(|step| step.trim().parse().ok()).unwrap_or(1);
    if is_satisfied(&plan.schemata, &current, step) {
        return Ok(());
    }
    let (name, wanted) = (plan.group.name(), plan.schemata.join(" "));
    let current = current.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = format_args!("the class {name:?} exists with {current:?}, not with {wanted:?}");
    Err(Error::config("/linux/intelRdt/closID", message))
}

fn read(dir: BorrowedFd<'_>, path: &str) -> Result<String> {
    let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open(resctrl {path:?})"))?;
    std::io::read_to_string(std::fs::File::from(file)).call(|| format!("read(resctrl {path:?})"))
}

fn write(root: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &str, text: &str) -> Result<()> {
    let file = openat(dir, path, OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC, Mode::empty())
        .call(|| format!("open(resctrl {path:?})"))?;
    // One write: the kernel applies the lines of one write together.
    let written = rustix::io::write(&file, text.as_bytes()).call(|| format!("write(resctrl {path:?}, {text:?})"));
    written.map(drop).map_err(|e| explain(root, e))
}

/// The kernel explains its refusal in a file of its own.
fn explain(root: BorrowedFd<'_>, e: Error) -> Error {
    match read(root, "info/last_cmd_status") {
        Ok(status) if !matches!(status.trim(), "" | "ok") => e.context(format_args!("resctrl: {}", status.trim())),
        _ => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::intel_rdt::plan;
    use crate::spec;

    /// A directory that looks like resctrl, without the files that the kernel makes in a new group.
    struct Fake {
        path: PathBuf,
        root: OwnedFd,
    }

    impl Fake {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-rdt-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            let root = rustix::fs::open(&path, DIRECTORY, Mode::empty()).unwrap();
            let fake = Self { path, root };
            fake.put("info/last_cmd_status", "ok\n");
            fake.put("info/MB/bandwidth_gran", "10\n");
            fake.group("");
            fake
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.path.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn get(&self, path: &str) -> String {
            std::fs::read_to_string(self.path.join(path)).unwrap()
        }

        fn group(&self, name: &str) {
            let path = |file: &str| if name.is_empty() { file.to_owned() } else { format!("{name}/{file}") };
            self.put(&path("tasks"), "");
            self.put(&path("schemata"), "L3:0=7ff\nMB:0=100\n");
            std::fs::create_dir_all(self.path.join(path("mon_groups"))).unwrap();
        }

        fn apply(&self, clos_id: &str, l3: &str, monitoring: bool) -> Result<bool> {
            let rdt = spec::IntelRdt {
                clos_id: clos_id.into(),
                l3_cache_schema: l3.into(),
                enable_monitoring: monitoring,
                ..Default::default()
            };
            apply(self.root.as_fd(), &plan(&rdt, "box").unwrap(), 42)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.path).unwrap();
        }
    }

    #[test]
    fn a_process_joins_a_group_that_exists() {
        let fake = Fake::new("join");
        fake.group("gold");
        assert!(!fake.apply("gold", "", false).unwrap());
        assert_eq!(fake.get("gold/tasks"), "42");
        assert_eq!(fake.get("gold/schemata"), "L3:0=7ff\nMB:0=100\n");
        let e = fake.apply("silver", "", false).unwrap_err();
        assert_eq!(e.to_string(), "open(resctrl \"silver\"): no such file or directory");
        assert!(e.hint().is_some());
    }

    #[test]
    fn a_shared_group_must_have_the_schemata_wanted() {
        let fake = Fake::new("shared");
        fake.group("gold");
        fake.apply("gold", "L3:0=07ff", false).unwrap();
        fake.group("gold");
        let e = fake.apply("gold", "L3:0=1", false).unwrap_err().to_string();
        assert!(e.starts_with("/linux/intelRdt/closID: the class \"gold\" exists with "), "{e}");
        assert_eq!(fake.get("gold/tasks"), "");
    }

    #[test]
    fn the_default_group_is_the_root() {
        let fake = Fake::new("root");
        assert!(!fake.apply("/", "", false).unwrap());
        assert_eq!(fake.get("tasks"), "42");
    }

    #[test]
    fn an_own_group_takes_its_schemata_and_goes_again() {
        let fake = Fake::new("own");
        fake.group("box");
        assert!(!fake.apply("", "L3:0=1", false).unwrap());
        assert_eq!((fake.get("box/schemata"), fake.get("box/tasks")), ("L3:0=1\n".into(), "42".into()));
        let own = plan(&spec::IntelRdt::default(), "new").unwrap();
        let (_, created) = open_group(fake.root.as_fd(), &own).unwrap();
        assert!(created && fake.path.join("new").is_dir());
        remove(fake.root.as_fd(), &own, true).unwrap();
        assert!(!fake.path.join("new").exists());
        remove(fake.root.as_fd(), &own, true).unwrap();
    }

    #[test]
    fn schemata_can_be_changed() {
        let fake = Fake::new("update");
        fake.group("box");
        let own = plan(&spec::IntelRdt::default(), "box").unwrap();
        assert!(has(fake.root.as_fd(), "MB") && !has(fake.root.as_fd(), "L3"));
        update(fake.root.as_fd(), &own, &["L3:0=3".into(), "MB:0=20".into()]).unwrap();
        assert_eq!(fake.get("box/schemata"), "L3:0=3\nMB:0=20\n");
    }

    #[test]
    fn statistics_of_a_class() {
        let fake = Fake::new("stats");
        fake.put("box/schemata", "    MB:0=50\n    L3:0=f\n");
        for (file, text) in [
            ("info/L3/cbm_mask", "7ff\n"),
            ("info/L3/min_cbm_bits", "1\n"),
            ("info/L3/num_closids", "16\n"),
            ("info/MB/delay_linear", "1\n"),
            ("info/MB/min_bandwidth", "10\n"),
            ("info/MB/num_closids", "8\n"),
            ("info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\n"),
            ("box/mon_data/mon_L3_00/llc_occupancy", "42\n"),
            ("box/mon_data/mon_L3_00/mbm_total_bytes", "43\n"),
            ("box/mon_data/mon_L3_01/llc_occupancy", "44\n"),
            ("box/mon_data/mon_L3_01/mbm_total_bytes", "45\n"),
        ] {
            fake.put(file, text);
        }
        let own = plan(&spec::IntelRdt::default(), "box").unwrap();
        let json = serde_json::to_string(&stats(fake.root.as_fd(), &own).unwrap()).unwrap();
        let expected = r#"{"l3_cache_info":{"cbm_mask":"7ff","min_cbm_bits":1,"num_closids":16},"l3_cache_schema_root":"L3:0=7ff","l3_cache_schema":"L3:0=f","mem_bw_info":{"bandwidth_gran":10,"delay_linear":1,"min_bandwidth":10,"num_closids":8},"mem_bw_schema_root":"MB:0=100","mem_bw_schema":"MB:0=50","schemata":["MB:0=50","L3:0=f"],"mbm_stats":[{"mbm_total_bytes":43,"mbm_local_bytes":0},{"mbm_total_bytes":45,"mbm_local_bytes":0}],"cmt_stats":[{"llc_occupancy":42},{"llc_occupancy":44}]}"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::to_string(&Stats::default()).unwrap(), "{}");
    }

    #[test]
    fn what_failed_leaves_nothing() {
        let fake = Fake::new("failed");
        fake.put("info/last_cmd_status", "out of CLOSIDs\n");
        for clos_id in ["", "gold"] {
            assert!(fake.apply(clos_id, "L3:0=1", false).is_err());
        }
        assert!(!fake.path.join("box").exists() && !fake.path.join("gold").exists());
    }

    #[test]
    fn a_monitoring_group_is_removed_alone() {
        let fake = Fake::new("monitoring");
        fake.group("gold");
        fake.put("gold/mon_groups/box/tasks", "");
        fake.apply("gold", "", true).unwrap();
        assert_eq!(fake.get("gold/mon_groups/box/tasks"), "42");
        std::fs::remove_file(fake.path.join("gold/mon_groups/box/tasks")).unwrap();
        let rdt = spec::IntelRdt { clos_id: "gold".into(), enable_monitoring: true, ..Default::default() };
        remove(fake.root.as_fd(), &plan(&rdt, "box").unwrap(), false).unwrap();
        assert!(!fake.path.join("gold/mon_groups/box").exists());
        assert!(fake.path.join("gold/tasks").exists());
    }
}
