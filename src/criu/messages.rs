//! What is said to CRIU and what it answers, by the field numbers of its `rpc.proto`.

use super::codec::{Fields, Writer};
use crate::error::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Dump, Self::Restore, Self::PreDump, Self::Notify, Self::FeatureCheck, Self::Version];

    pub fn name(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Restore => "restore",
            Self::PreDump => "pre-dump",
            Self::Notify => "notification",
            Self::FeatureCheck => "feature check",
            Self::Version => "version check",
        }
    }
}

/// What CRIU does about cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    Ignore = 0,
    /// On restore, give properties to those that it makes.
    #[default]
    Soft = 3,
    /// On restore, give properties to all.
    Full = 4,
    /// On restore, refuse those that exist.
    Strict = 5,
}

impl CgroupsMode {
    pub const NAMES: [(&'static str, Self); 4] =
        [("soft", Self::Soft), ("full", Self::Full), ("strict", Self::Strict), ("ignore", Self::Ignore)];
}

/// How CRIU keeps packets from connections that are being dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkLock {
    Iptables = 1,
    Nftables = 2,
    Skip = 3,
}

impl NetworkLock {
    pub const NAMES: [(&'static str, Self); 3] =
        [("iptables", Self::Iptables), ("nftables", Self::Nftables), ("skip", Self::Skip)];
}

/// `criu_opts`. Descriptors of directories are read in our process, others are those of the CRIU that was spawned.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub images_dir_fd: i32,
    pub work_dir_fd: Option<i32>,
    pub log_file: &'static str,
    pub config_file: Option<Vec<u8>>,
    /// Of the root of the process tree to dump.
    pub pid: Option<i32>,
    pub root: Vec<u8>,
    pub leave_running: bool,
    pub ext_unix_sk: bool,
    pub tcp_established: bool,
    pub tcp_skip_in_flight: bool,
    pub tcp_close: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub link_remap: bool,
    pub auto_dedup: bool,
    pub lazy_pages: bool,
    /// Address and port.
    pub page_server: Option<(String, u16)>,
    /// Relative to the images.
    pub parent_images: Option<Vec<u8>>,
    pub track_memory: bool,
    /// Mounts that are not CRIU's to care for: the name of one in the images; on restore, what to bind there.
    pub external_mounts: Vec<(String, String)>,
    /// The same for other resources, as `net[4026531840]:extRootNetNS`.
    pub external: Vec<String>,
    /// A resource by its name in the images, and the descriptor to be used for it.
    pub inherit_fds: Vec<(String, i32)>,
    /// A namespace's type, and its file.
    pub join_namespaces: Vec<(&'static str, Vec<u8>)>,
    /// `CLONE_NEW*` of those that are made but not filled.
    pub empty_namespaces: u32,
    pub cgroups: CgroupsMode,
    /// A controller, and the cgroup that is to be the container's there.
    pub cgroup_roots: Vec<(String, Vec<u8>)>,
    pub freeze_cgroup: Option<Vec<u8>>,
    /// Let the restored processes be our children, not CRIU's.
    pub as_siblings: bool,
    pub evasive_devices: bool,
    pub network_lock: Option<NetworkLock>,
    /// As `apparmor:NAME`.
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
}

impl Options {
    fn encode(&self) -> Writer {
        // Errors, warnings and what happened, as people ask for who try to help.
        const DEBUG: i64 = 4;
        let mut w = Writer::default();
        w.int(1, self.images_dir_fd.into());
        w.int(9, DEBUG);
        w.bytes(10, self.log_file.as_bytes());
        w.bytes(13, &self.root);
        w.int(38, self.empty_namespaces.into());
        // The older of the two is what the newer one depends on.
        w.bool(24, true);
        w.int(34, self.cgroups as i64);
        let flags = [
            (3, self.leave_running),
            (4, self.ext_unix_sk),
            (5, self.tcp_established),
            (6, self.evasive_devices),
            (7, self.shell_job),
            (8, self.file_locks),
            // Notifications: we answer each.
            (12, true),
            (15, self.track_memory),
            (16, self.auto_dedup),
            (18, self.link_remap),
            (26, self.as_siblings),
            (46, self.tcp_skip_in_flight),
            (48, self.lazy_pages),
            // The master of the container's terminal is outside of it.
            (50, true),
            (52, self.tcp_close),
        ];
        for (field, _) in flags.into_iter().filter(|(_, set)| *set) {
            w.bool(field, true);
        }
        let numbers = [(2, self.pid), (17, self.work_dir_fd), (64, self.network_lock.map(|method| method as i32))];
        for (field, number) in numbers {
            if let Some(number) = number {
                w.int(field, number.into());
            }
        }
        let texts = [
            (14, self.parent_images.as_deref()),
            (44, self.freeze_cgroup.as_deref()),
            (51, self.config_file.as_deref()),
            (53, self.lsm_profile.as_deref().map(str::as_bytes)),
            (63, self.lsm_mount_context.as_deref().map(str::as_bytes)),
        ];
        for (field, text) in texts {
            if let Some(text) = text {
                w.bytes(field, text);
            }
        }
        self.encode_lists(&mut w);
        w
    }

    fn encode_lists(&self, w: &mut Writer) {
        if let Some((address, port)) = &self.page_server {
            let mut server = Writer::default();
            server.bytes(1, address.as_bytes());
            server.int(2, (*port).into());
            w.message(11, &server);
        }
        for (name, source) in &self.external_mounts {
            w.message(23, &pair(name.as_bytes(), source.as_bytes()));
        }
        for (controller, path) in &self.cgroup_roots {
            w.message(25, &pair(controller.as_bytes(), path));
        }
        for (name, fd) in &self.inherit_fds {
            let mut inherited = Writer::default();
            inherited.bytes(1, name.as_bytes());
            inherited.int(2, (*fd).into());
            w.message(27, &inherited);
        }
        for external in &self.external {
            w.bytes(37, external.as_bytes());
        }
        for (kind, path) in &self.join_namespaces {
            w.message(39, &pair(kind.as_bytes(), path));
        }
    }
}

fn pair(first: &[u8], second: &[u8]) -> Writer {
    let mut w = Writer::default();
    w.bytes(1, first);
    w.bytes(2, second);
    w
}

/// What CRIU and the kernel below it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub memory_tracking: bool,
    pub lazy_pages: bool,
}

/// `criu_req`
pub fn request(kind: Kind, options: Option<&Options>) -> Vec<u8> {
    let mut w = Writer::default();
    w.int(1, kind as i64);
    if let Some(options) = options {
        w.message(2, &options.encode());
    }
    match kind {
        Kind::Notify => w.bool(3, true),
        // Another request follows.
        Kind::Version => w.bool(4, true),
        Kind::FeatureCheck => {
            let mut features = Writer::default();
            features.bool(1, true);
            features.bool(2, true);
            w.bool(4, true);
            w.message(5, &features);
        }
        _ => {}
    }
    w.into_bytes()
}

/// A point of its work at which CRIU waits for us.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notification {
    pub script: String,
    /// Of the root of the process tree, where there is one.
    pub pid: Option<i32>,
}

/// `criu_resp`
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// `None`: one that we never ask for.
    pub kind: Option<Kind>,
    pub success: bool,
    pub restored_pid: Option<i32>,
    pub notification: Notification,
    pub errno: Option<i32>,
    pub message: Option<String>,
    pub features: Features,
    /// As 40201 for 4.2.1.
    pub version: i64,
}

impl Response {
    pub fn decode(message: &[u8]) -> Result<Self> {
        let mut response = Self::default();
        for field in Fields::of(message) {
            let (field, value) = field?;
            match field {
                1 => {
                    let kind = value.int()?;
                    response.kind = Kind::ALL.into_iter().find(|known| *known as i64 == kind);
                }
                2 => response.success = value.int()? != 0,
                4 => response.restored_pid = pid_field(value.fields()?, 1)?,
                5 => {
                    response.notification.pid = pid_field(value.fields()?, 2)?;
                    for field in value.fields()? {
                        if let (1, script) = field? {
                            response.notification.script = script.text()?;
                        }
                    }
                }
                7 => response.errno = Some(value.int()? as i32),
                8 => {
                    for field in value.fields()? {
                        match field? {
                            (1, value) => response.features.memory_tracking = value.int()? != 0,
                            (2, value) => response.features.lazy_pages = value.int()? != 0,
                            _ => {}
                        }
                    }
                }
                9 => response.message = Some(value.text()?),
                10 => response.version = version(value.fields()?)?,
                _ => {}
            }
        }
        Ok(response)
    }
}

fn pid_field(fields: Fields<'_>, number: u32) -> Result<Option<i32>> {
    let mut pid = None;
    for field in fields {
        let (field, value) = field?;
        if field == number {
            // -1 is in answers to what failed. Nobody is to take 0 and -1 for a process: they are ourselves and all.
            pid = i32::try_from(value.int()?).ok().filter(|pid| *pid > 0);
        }
    }
    Ok(pid)
}

/// A version built from sources between two releases counts as the coming one, as `criu --version` has it.
fn version(fields: Fields<'_>) -> Result<i64> {
    let (mut major, mut minor, mut sublevel, mut from_git) = (0, 0, 0, false);
    for field in fields {
        match field? {
            (1, value) => major = value.int()?,
            (2, value) => minor = value.int()?,
            (3, _) => from_git = true,
            (4, value) => sublevel = value.int()?,
            _ => {}
        }
    }
    if from_git {
        (minor, sublevel) = (minor.saturating_add(1), 0);
    }
    Ok(major.saturating_mul(10000).saturating_add(minor.saturating_mul(100)).saturating_add(sublevel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        assert_eq!(request(Kind::Version, None), b"\x08\x0a\x20\x01");
        assert_eq!(request(Kind::FeatureCheck, None), b"\x08\x09\x20\x01\x2a\x04\x08\x01\x10\x01");
        assert_eq!(request(Kind::Notify, None), b"\x08\x06\x18\x01");
    }

    /// The numbers of what is set, of a dump's options.
    fn fields(options: &Options) -> Vec<u32> {
        let request = request(Kind::Dump, Some(options));
        let (_, options) = Fields::of(&request).nth(1).unwrap().unwrap();
        options.fields().unwrap().map(|field| field.unwrap().0).collect()
    }

    #[test]
    fn only_what_is_set_is_said() {
        let always = [1, 9, 10, 13, 38, 24, 34, 12, 50];
        assert_eq!(fields(&Options::default()), always);
        let text = || Some(b"x".to_vec());
        let all = Options {
            work_dir_fd: Some(5),
            config_file: text(),
            pid: Some(7),
            leave_running: true,
            ext_unix_sk: true,
            tcp_established: true,
            tcp_skip_in_flight: true,
            tcp_close: true,
            shell_job: true,
            file_locks: true,
            link_remap: true,
            auto_dedup: true,
            lazy_pages: true,
            page_server: Some(("::1".into(), 27)),
            parent_images: text(),
            track_memory: true,
            external_mounts: vec![("/a".into(), "/b".into())],
            external: vec!["net[1]:x".into()],
            inherit_fds: vec![("pipe:[1]".into(), 0)],
            join_namespaces: vec![("ipc", b"/x".to_vec())],
            cgroup_roots: vec![("cpu".into(), b"/x".to_vec())],
            freeze_cgroup: text(),
            as_siblings: true,
            evasive_devices: true,
            network_lock: Some(NetworkLock::Skip),
            lsm_profile: Some("apparmor:x".into()),
            lsm_mount_context: Some("x".into()),
            ..Options::default()
        };
        let mut set = fields(&all);
        set.sort_unstable();
        let expected = [
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 23, 24, 25, 26, 27, 34, 37, 38, 39, 44, 46,
            48, 50, 51, 52, 53, 63, 64,
        ];
        assert_eq!(set, expected);
    }

    #[test]
    fn responses() {
        let restored = Response::decode(b"\x08\x02\x10\x01\x22\x02\x08\x2a").unwrap();
        assert_eq!((restored.kind, restored.success, restored.restored_pid), (Some(Kind::Restore), true, Some(42)));
        let notified = Response::decode(b"\x08\x06\x10\x01\x2a\x10\x0a\x0cpost-restore\x10\x2a").unwrap();
        assert_eq!(notified.notification, Notification { script: "post-restore".into(), pid: Some(42) });
        let failed = Response::decode(b"\x08\x01\x10\x00\x38\x16\x4a\x02no").unwrap();
        assert_eq!((failed.success, failed.errno, failed.message.as_deref()), (false, Some(22), Some("no")));
        let features = Response::decode(b"\x08\x09\x10\x01\x42\x04\x08\x01\x10\x00").unwrap().features;
        assert_eq!(features, Features { memory_tracking: true, lazy_pages: false });
    }

    #[test]
    fn versions() {
        for (fields, expected) in [
            (&b"\x08\x04\x10\x02\x20\x01"[..], 40201),
            (b"\x08\x03\x10\x0f", 31500),
            (b"\x08\x03\x10\x0f\x1a\x01g", 31600),
        ] {
            assert_eq!(version(Fields::of(fields)).unwrap(), expected);
        }
    }

    #[test]
    fn hostile_responses_end_in_an_error() {
        for message in [
            &b"\x0a\x01x"[..],   // a type that is no number
            b"\x28\x01",         // a notification that is a number
            b"\x42\x05\x08\x01", // features that break off
            b"\x52\x02\x0a\x00", // a version that is a text
        ] {
            assert!(Response::decode(message).is_err(), "{message:?}");
        }
        assert_eq!(Response::decode(b"\x08\x63\x10\x01").unwrap().kind, None);
        assert_eq!(Response::decode(b"").unwrap(), Response::default());
        for nobody in [&b"\x22\x02\x08\x00"[..], b"\x22\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"] {
            assert_eq!(Response::decode(nobody).unwrap().restored_pid, None);
        }
    }
}
