//! The user, groups and capabilities that init takes on.

use std::os::fd::OwnedFd;

use rustix::fs::{self, FileType, Gid, Uid};
use rustix::io::Errno;
use rustix::process::{self, DumpableBehavior};
use rustix::thread::{self, CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use super::process::setgroups_denied;
use crate::error::{Call, Context, Error, Result};
use crate::plan::process::{Capabilities, Capability, User};
use crate::sys::fd::standard;
use crate::sys::procfs::ProcFs;

/// `<linux/magic.h>`
const PIPEFS_MAGIC: u32 = 0x5049_5045;

/// A standard stream that is the host's `/dev/null` becomes the container's, which `open` opens. So nothing of the
/// host's mounts stays open, and nobody can change the mode of the host's device. `open` returns none where `/dev` is
/// the host's anyway.
pub fn replace_null(open: impl Fn() -> Result<Option<OwnedFd>>) -> Result<()> {
    for (number, stream) in standard().iter().enumerate() {
        if !crate::rootfs::is_null(*stream).with_context(|| format!("standard stream {number}"))? {
            continue;
        }
        let Some(null) = open()? else { return Ok(()) };
        match number {
            0 => rustix::stdio::dup2_stdin(&null),
            1 => rustix::stdio::dup2_stdout(&null),
            _ => rustix::stdio::dup2_stderr(&null),
        }
        .call(|| format!("dup2(/dev/null, {number})"))?;
    }
    Ok(())
}

/// Gives standard streams that are pipes to the user, so that the process can open them again by name, as
/// `/dev/stdout`. This goes by descriptor, whatever their names are by now (CVE-2026-88265).
///
/// Nothing else may be given away: files, named FIFOs, devices and terminals are the host's, and keep their owner. The
/// container's own terminal belongs to the user already.
pub fn own_stdio(uid: u32) -> Result<()> {
    let streams = standard();
    for (number, stream) in streams.into_iter().enumerate() {
        let stat = fs::fstat(stream).call(|| format!("fstat({number})"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        // A stream that is a directory of the host would be a way out of the container (CVE-2024-21626).
        if kind == FileType::Directory {
            return Err(Error::new(format_args!("standard stream {number} is a directory")));
        }
        let is_pipe = || fs::fstatfs(stream).is_ok_and(|fs| u32::try_from(fs.f_type) == Ok(PIPEFS_MAGIC));
        if kind != FileType::Fifo || stat.st_uid == uid || !is_pipe() {
            continue;
        }
        match fs::fchown(stream, Some(Uid::from_raw(uid)), None) {
            // Its owner is not mapped into the user namespace.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(Error::sys(format_args!("fchown({number}, {uid})"), errno)),
        }
    }
    Ok(())
}

/// CVE-2016-9962: a process of the container that could trace init could take its descriptors and its root.
///
/// To be called again right after each change of user, group or user namespace: the kernel then sets the dumpable
/// attribute to fs.suid_dumpable (commit_creds() in kernel/cred.c), which may be 1.
pub fn never_dumpable() -> Result<()> {
    process::set_dumpable_behavior(DumpableBehavior::NotDumpable).call(|| "prctl(PR_SET_DUMPABLE, 0)")
}

fn set_uid(uid: u32) -> Result<()> {
    let id = Uid::from_raw(uid);
    thread::set_thread_res_uid(id, id, id).call(|| format!("setresuid({uid}, {uid}, {uid})"))?;
    never_dumpable()
}

fn set_gid(gid: u32) -> Result<()> {
    let id = Gid::from_raw(gid);
    thread::set_thread_res_gid(id, id, id).call(|| format!("setresgid({gid}, {gid}, {gid})"))?;
    never_dumpable()
}

/// Becomes root of the user namespace, or the user if no id 0 is mapped. The host's ids mean nothing there: files would
/// be made with an owner that is not mapped. All capabilities stay, in this namespace only.
pub fn take_ids(user: &User) -> Result<()> {
    let is_unmapped = |result: &Result<()>| matches!(result, Err(e) if e.errno() == Some(Errno::INVAL));
    match set_gid(0) {
        result if is_unmapped(&result) => set_gid(user.gid).map_err(|e| unmapped("gid", user.gid, e))?,
        result => result.context("root of the user namespace")?,
    }
    match set_uid(0) {
        result if is_unmapped(&result) => {}
        result => return result.context("root of the user namespace"),
    }
    thread::set_keep_capabilities(true).call(|| "prctl(PR_SET_KEEPCAPS)")?;
    set_uid(user.uid).map_err(|e| unmapped("uid", user.uid, e))?;
    let own = thread::capabilities(None).call(|| "capget()")?;
    thread::set_capabilities(None, CapabilitySets { effective: own.permitted, ..own }).call(|| "capset(permitted)")
}

fn become_user(user: &User) -> Result<()> {
    set_gid(user.gid).map_err(|e| unmapped("gid", user.gid, e))?;
    set_uid(user.uid).map_err(|e| unmapped("uid", user.uid, e))
}

/// To be called before a user namespace is joined, which may forbid setgroups(2) (user_namespaces(7)): the groups of
/// the host's root would stay with the process. An ordinary user may do it only afterwards, or never.
pub fn leave_groups(user: &User) -> Result<()> {
    if user.keep_groups {
        return Ok(());
    }
    match thread::set_thread_groups(&[]) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        result => result.call(|| "setgroups([])"),
    }
}

/// Becomes the user, with its groups. The permitted capabilities stay; the effective ones go with user 0.
///
/// `proc` is the root of a procfs. A step that fails but is not essential becomes a warning. Returns whether the
/// supplementary groups are the user's now.
pub fn switch_user(user: &User, proc: &ProcFs, warnings: &mut Vec<String>) -> Result<bool> {
    if user.uid != 0 {
        thread::set_keep_capabilities(true).call(|| "prctl(PR_SET_KEEPCAPS)")?;
    }
    let groups = !user.keep_groups && set_groups(&user.additional_gids, proc, warnings)?;
    become_user(user)?;
    if user.uid != 0 {
        thread::set_keep_capabilities(false).call(|| "prctl(PR_SET_KEEPCAPS)")?;
    }
    Ok(groups)
}

/// In the user namespace of an unprivileged user, setgroups(2) may be forbidden since Linux 3.19. Then that user's
/// groups stay.
fn set_groups(gids: &[u32], proc: &ProcFs, warnings: &mut Vec<String>) -> Result<bool> {
    let groups: Vec<Gid> = gids.iter().copied().map(Gid::from_raw).collect();
    match thread::set_thread_groups(&groups) {
        Err(Errno::PERM) if setgroups_denied(proc)? => {
            if !gids.is_empty() {
                warnings.push("ignoring additionalGids: the user namespace forbids setgroups".to_owned());
            }
            Ok(false)
        }
        other => other.call(|| format!("setgroups({gids:?})")).map(|()| true),
    }
}

fn unmapped(what: &str, id: u32, error: Error) -> Error {
    match error.errno() {
        Some(Errno::INVAL) => Error::new(format_args!("cannot set{what} to unmapped {what} {id} in user namespace")),
        _ => error,
    }
}

/// The capabilities that the user's process gets: those planned, as far as init has them itself.
#[derive(Clone, Copy, Debug)]
pub struct Privileges {
    sets: Capabilities,
    /// Init's own permitted ones.
    own: u64,
}

impl Privileges {
    /// A capability that init lacks becomes a warning, not an error, as the specification asks: the container gets less
    /// than it wanted.
    pub fn limited_to_own(planned: &Capabilities, warnings: &mut Vec<String>) -> Result<Self> {
        let own = thread::capabilities(None).call(|| "capget()")?.permitted.bits();
        let mut sets = *planned;
        sets.restrict(own, u64::MAX, warnings);
        Ok(Self { sets, own })
    }

    /// The caller's bits could give root no capabilities, or keep capabilities over a change of user. Needs CAP_SETPCAP
    /// in effect, so comes before [`switch_user`].
    pub fn reset_secure_bits(&self) -> Result<()> {
        match thread::set_capabilities_secure_bits(CapabilitiesSecureBits::empty()) {
            // They are locked, because somebody wants them to hold for everything that the caller starts, or may not be
            // changed here.
            Err(Errno::PERM) => Ok(()),
            result => result.call(|| "prctl(PR_SET_SECUREBITS, 0)"),
        }
    }

    /// Needs CAP_SETPCAP in effect, so comes before [`switch_user`].
    pub fn drop_bounding_set(&self) -> Result<()> {
        for capability in Capability::in_mask(!self.sets.bounding) {
            let set = CapabilitySet::from_bits_retain(capability.bit());
            match thread::remove_capability_from_bounding_set(set) {
                Ok(()) => {}
                // Past the last capability of this kernel. Every kernel that berth runs on has all that have names.
                Err(Errno::INVAL) if !capability.has_name() => break,
                Err(Errno::PERM) if thread::capability_is_in_bounding_set(set) == Ok(false) => {}
                Err(errno) => return Err(Error::sys(format_args!("prctl(PR_CAPBSET_DROP, {capability})"), errno)),
            }
        }
        Ok(())
    }

    /// The capabilities for the user's process, and for init until then, with `held`.
    pub fn sets(&self, held: Option<Capability>) -> Capabilities {
        let held = held.map_or(0, Capability::bit) & self.own;
        Capabilities { permitted: self.sets.permitted | held, ..self.sets }
    }

    /// Sets all sets but the bounding and the ambient one. `held` stays permitted, for [`Privileges::raise`], until
    /// this is called without it: loading the seccomp filter of a process that may gain privileges needs CAP_SYS_ADMIN.
    pub fn apply(&self, held: Option<Capability>) -> Result<()> {
        Self::set(self.sets(held))
    }

    /// Makes `held` effective, right before it is needed.
    pub fn raise(&self, held: Option<Capability>) -> Result<()> {
        let Some(held) = held else { return Ok(()) };
        let sets = self.sets(Some(held));
        Self::set(Capabilities { effective: sets.effective | held.bit() & sets.permitted, ..sets })
    }

    fn set(sets: Capabilities) -> Result<()> {
        let set = CapabilitySet::from_bits_retain;
        let new = CapabilitySets {
            effective: set(sets.effective),
            permitted: set(sets.permitted),
            inheritable: set(sets.inheritable),
        };
        thread::set_capabilities(None, new)
            .call(|| {
                let Capabilities { effective, permitted, inheritable, .. } = sets;
                format!("capset(effective {effective:#x}, permitted {permitted:#x}, inheritable {inheritable:#x})")
            })
            .context("can't apply capabilities")
    }

    /// To be called after [`Privileges::apply`]: the kernel wants the ambient set within the permitted and the
    /// inheritable one.
    pub fn raise_ambient(&self) -> Result<()> {
        thread::clear_ambient_capability_set().call(|| "prctl(PR_CAP_AMBIENT_CLEAR_ALL)")?;
        for capability in Capability::in_mask(self.sets.ambient) {
            let set = CapabilitySet::from_bits_retain(capability.bit());
            thread::configure_capability_in_ambient_set(set, true)
                .call(|| format!("prctl(PR_CAP_AMBIENT_RAISE, {capability})"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::testing::{in_child, spoil};

    fn proc() -> ProcFs {
        ProcFs::private().unwrap()
    }

    fn user(uid: u32, gid: u32, additional_gids: &[u32]) -> User {
        User { uid, gid, umask: 0o022, additional_gids: additional_gids.to_vec(), keep_groups: false }
    }

    fn field(status: &str, name: &str) -> String {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("{name} in {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Takes all steps in their order. Returns the status of the child, and its warnings.
    fn become_user(user: &User, sets: Capabilities, held: Option<Capability>) -> String {
        let proc = proc();
        in_child(|| {
            let mut warnings = Vec::new();
            let privileges = Privileges::limited_to_own(&sets, &mut warnings).unwrap();
            privileges.drop_bounding_set().unwrap();
            switch_user(user, &proc, &mut warnings).unwrap();
            privileges.apply(held).unwrap();
            privileges.raise_ambient().unwrap();
            if held.is_some() {
                privileges.apply(None).unwrap();
            }
            std::fs::read_to_string("/proc/thread-self/status").unwrap() + &warnings.join("\n")
        })
        .0
    }

    const KILL: u64 = 1 << 5;
    const CHOWN: u64 = 1;
    const NET_RAW: u64 = 1 << 13;

    #[test]
    fn a_user_has_what_was_planned_and_nothing_else() {
        let sets = Capabilities {
            bounding: KILL | CHOWN | NET_RAW,
            effective: KILL,
            inheritable: CHOWN,
            permitted: KILL | CHOWN,
            ambient: CHOWN,
        };
        for held in [None, Some(Capability::SYS_ADMIN)] {
            let status = become_user(&user(1234, 4321, &[5, 6]), sets, held);
            let table = [
                ("Uid", "1234 1234 1234 1234"),
                ("Gid", "4321 4321 4321 4321"),
                ("Groups", "5 6"),
                ("CapInh", "0000000000000001"),
                ("CapPrm", "0000000000000021"),
                ("CapEff", "0000000000000020"),
                ("CapBnd", "0000000000002021"),
                ("CapAmb", "0000000000000001"),
            ];
            for (name, want) in table {
                assert_eq!(field(&status, name), want, "{name} {held:?}");
            }
        }
    }

    #[test]
    fn root_without_capabilities_has_none() {
        let status = become_user(&user(0, 0, &[]), Capabilities::default(), None);
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(&status, name), "0000000000000000", "{name}");
        }
        assert_eq!(field(&status, "Groups"), "");
    }

    #[test]
    fn what_init_lacks_is_warned_about() {
        let all = Capabilities { bounding: u64::MAX, permitted: u64::MAX, effective: u64::MAX, ..Default::default() };
        let status = become_user(&user(0, 0, &[]), all, None);
        assert!(status.contains("ignoring unknown or unavailable capabilities: [") && status.contains("capability 63"));
        assert_eq!(field(&status, "CapPrm"), field(&status, "CapEff"));
    }

    #[test]
    fn a_change_of_user_leaves_nothing_to_trace() {
        let proc = proc();
        let changes: [&dyn Fn() -> Result<()>; 3] = [
            &|| take_ids(&user(0, 0, &[])),
            &|| leave_groups(&user(0, 0, &[])).and_then(|()| take_ids(&user(0, 0, &[]))),
            &|| switch_user(&user(0, 0, &[]), &proc, &mut Vec::new()).map(drop),
        ];
        for (index, change) in changes.iter().enumerate() {
            let (output, _) = in_child(|| {
                // As the kernel leaves it with fs.suid_dumpable at 1.
                process::set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
                change().unwrap();
                format!("{:?}", process::dumpable_behavior().unwrap())
            });
            assert_eq!(output, "NotDumpable", "change {index}");
        }
    }

    #[test]
    fn a_filter_needs_what_is_held() {
        let (output, _) = in_child(|| {
            let privileges = Privileges::limited_to_own(&Capabilities::default(), &mut Vec::new()).unwrap();
            switch_user(&user(1, 1, &[]), &proc(), &mut Vec::new()).unwrap();
            let held = Some(Capability::SYS_ADMIN);
            let steps: [&dyn Fn() -> Result<()>; 3] =
                [&|| privileges.apply(held), &|| privileges.raise(held), &|| privileges.apply(None)];
            let after = |step: &dyn Fn() -> Result<()>| {
                step().unwrap();
                let now = thread::capabilities(None).unwrap();
                format!("{:x}/{:x}", now.effective.bits(), now.permitted.bits())
            };
            steps.map(after).join(" ")
        });
        assert_eq!(output, "0/200000 200000/200000 0/0");
    }

    #[test]
    fn groups_that_the_namespace_forbids_are_left() {
        let proc = proc();
        let (output, _) = in_child(|| {
            let unshare = |flags| crate::sys::process::testing::unshare(flags);
            unshare(libc::CLONE_NEWUSER);
            std::fs::write("/proc/self/setgroups", "deny").unwrap();
            std::fs::write("/proc/self/uid_map", "0 0 1").unwrap();
            std::fs::write("/proc/self/gid_map", "0 0 1").unwrap();
            let mut warnings = Vec::new();
            switch_user(&user(0, 0, &[1]), &proc, &mut warnings).unwrap();
            let unmapped = [user(7, 0, &[]), user(0, 8, &[])]
                .map(|user| switch_user(&user, &proc, &mut Vec::new()).unwrap_err().to_string());
            format!("{}|{}", warnings.join("\n"), unmapped.join("|"))
        });
        assert_eq!(
            output,
            "ignoring additionalGids: the user namespace forbids setgroups|\
             cannot setuid to unmapped uid 7 in user namespace|\
             cannot setgid to unmapped gid 8 in user namespace"
        );
    }

    #[test]
    fn pipes_become_the_users_and_nothing_else() {
        let path = |name: &str| std::env::temp_dir().join(format!("berth-stdio-{name}-{}", std::process::id()));
        let (file, fifo) = (path("file"), path("fifo"));
        std::fs::File::create(&file).unwrap();
        fs::mknodat(fs::CWD, &fifo, FileType::Fifo, fs::Mode::from_raw_mode(0o600), 0).unwrap();
        let terminal = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
        let (_reader, pipe) = std::io::pipe().unwrap();
        let open =
            |path: &std::path::Path| OwnedFd::from(std::fs::File::options().read(true).write(true).open(path).unwrap());
        let null = open("/dev/null".as_ref());
        let streams = [open(&file), open(&fifo), terminal, null, OwnedFd::from(pipe)];
        let owners = || streams.each_ref().map(|fd| fs::fstat(fd).unwrap().st_uid);
        let before = owners();
        for stdout in &streams {
            in_child(|| {
                spoil(stdout);
                own_stdio(77).map_or_else(|e| e.to_string(), |()| "done".into())
            });
        }
        let _ = [&file, &fifo].map(std::fs::remove_file);
        assert_eq!(owners(), [before[0], before[1], before[2], before[3], 77]);
        let directory = std::fs::File::open("/").unwrap();
        let (output, _) = in_child(|| {
            spoil(&directory);
            own_stdio(0).unwrap_err().to_string()
        });
        assert_eq!(output, "standard stream 1 is a directory");
    }

    #[test]
    fn a_bounding_set_that_cannot_be_dropped_is_an_error() {
        // PR_CAPBSET_DROP is 24, EINVAL 22.
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["prctl"],"action":"SCMP_ACT_ERRNO",
            "errnoRet":22,"args":[{"index":0,"value":24,"op":"SCMP_CMP_EQ"}]}]}"#;
        let profile: crate::spec::Seccomp = serde_json::from_str(profile).unwrap();
        let filter = crate::plan::seccomp::compile(&profile).unwrap().unwrap();
        let (output, _) = in_child(|| {
            thread::set_no_new_privs(true).unwrap();
            crate::sys::seccomp::set_mode_filter(filter.flags, filter.program.as_bytes()).unwrap();
            let privileges = Privileges::limited_to_own(&Capabilities::default(), &mut Vec::new()).unwrap();
            privileges.drop_bounding_set().map_or_else(|e| e.to_string(), |()| "dropped".into())
        });
        assert_eq!(output, "prctl(PR_CAPBSET_DROP, CAP_CHOWN): invalid argument");
    }
}
