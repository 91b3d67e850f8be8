//! Requests to CRIU, and its answers, with the field numbers of its `rpc.proto`.

use prost::Message;

use self::wire::{CgroupRoot, CriuOpts, CriuReq, CriuResp, InheritFd, JoinNamespace, MountMap, PageServer};
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestType {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

impl RequestType {
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

/// How CRIU treats cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    Ignore = 0,
    /// On restore, set the properties of cgroups that it makes.
    #[default]
    Soft = 3,
    /// On restore, set the properties of all.
    Full = 4,
    /// On restore, refuse existing ones.
    Strict = 5,
}

impl CgroupsMode {
    pub const NAMES: [(&'static str, Self); 4] =
        [("soft", Self::Soft), ("full", Self::Full), ("strict", Self::Strict), ("ignore", Self::Ignore)];
}

/// How CRIU keeps packets away from connections that are being dumped.
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

/// `criu_opts`. CRIU reads descriptors of directories in the runtime's process, and others in its own.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub images_dir_fd: i32,
    pub work_dir_fd: Option<i32>,
    pub log_file: &'static str,
    pub config_file: Option<Vec<u8>>,
    /// The root of the process tree to dump.
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
    /// Mounts that CRIU does not dump: the name of one in the images; and on restore, the path to bind there.
    pub external_mounts: Vec<(String, String)>,
    /// The same for other resources, as `net[4026531840]:extRootNetNS`.
    pub external: Vec<String>,
    /// The name of a resource in the images, and the descriptor to use for it.
    pub inherit_fds: Vec<(String, i32)>,
    /// A namespace's type, and its file.
    pub join_namespaces: Vec<(&'static str, Vec<u8>)>,
    /// `CLONE_NEW*` of namespaces that CRIU makes but does not fill.
    pub empty_namespaces: u32,
    pub cgroups: CgroupsMode,
    /// A controller, and the container's cgroup there.
    pub cgroup_roots: Vec<(String, Vec<u8>)>,
    pub freeze_cgroup: Option<Vec<u8>>,
    /// Make the restored processes children of the runtime, not of CRIU.
    pub as_siblings: bool,
    pub evasive_devices: bool,
    pub network_lock: Option<NetworkLock>,
    /// In the form `apparmor:NAME`.
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
}

impl Options {
    fn encode(&self) -> CriuOpts {
        // Errors, warnings and progress, which people need who try to help.
        const DEBUG: i32 = 4;
        let set = |flag: bool| flag.then_some(true);
        CriuOpts {
            images_dir_fd: self.images_dir_fd,
            pid: self.pid,
            leave_running: set(self.leave_running),
            ext_unix_sk: set(self.ext_unix_sk),
            tcp_established: set(self.tcp_established),
            evasive_devices: set(self.evasive_devices),
            shell_job: set(self.shell_job),
            file_locks: set(self.file_locks),
            log_level: Some(DEBUG),
            log_file: Some(self.log_file.to_owned()),
            page_server: self
                .page_server
                .as_ref()
                .map(|(address, port)| PageServer { address: Some(address.clone()), port: Some((*port).into()) }),
            // The runtime answers each notification.
            notify_scripts: Some(true),
            root: Some(self.root.clone()),
            parent_images: self.parent_images.clone(),
            track_memory: set(self.track_memory),
            auto_dedup: set(self.auto_dedup),
            work_dir_fd: self.work_dir_fd,
            link_remap: set(self.link_remap),
            external_mounts: self.external_mounts.iter().cloned().map(|(key, value)| MountMap { key, value }).collect(),
            // The newer field, the mode, depends on the older one.
            manage_cgroups: Some(true),
            cgroup_roots: self.cgroup_roots.iter().cloned().map(|(ctrl, path)| CgroupRoot { ctrl, path }).collect(),
            as_siblings: set(self.as_siblings),
            inherit_fds: self.inherit_fds.iter().cloned().map(|(key, fd)| InheritFd { key, fd }).collect(),
            cgroups_mode: Some(self.cgroups as i32),
            external: self.external.clone(),
            empty_namespaces: Some(self.empty_namespaces),
            join_namespaces: self.join_namespaces.iter().cloned().map(JoinNamespace::from).collect(),
            freeze_cgroup: self.freeze_cgroup.clone(),
            tcp_skip_in_flight: set(self.tcp_skip_in_flight),
            lazy_pages: set(self.lazy_pages),
            // The master of the container's terminal is outside of the container.
            orphan_pts_master: Some(true),
            config_file: self.config_file.clone(),
            tcp_close: set(self.tcp_close),
            lsm_profile: self.lsm_profile.clone(),
            lsm_mount_context: self.lsm_mount_context.clone(),
            network_lock: self.network_lock.map(|method| method as i32),
        }
    }
}

impl From<(&str, Vec<u8>)> for JoinNamespace {
    fn from((kind, file): (&str, Vec<u8>)) -> Self {
        Self { kind: kind.to_owned(), file }
    }
}

/// The abilities of CRIU and the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub memory_tracking: bool,
    pub lazy_pages: bool,
}

/// `criu_req`
pub fn request(kind: RequestType, options: Option<&Options>) -> Vec<u8> {
    let asks_features = kind == RequestType::FeatureCheck;
    let request = CriuReq {
        kind: kind as i32,
        options: options.map(Options::encode),
        notify_success: (kind == RequestType::Notify).then_some(true),
        // Another request follows.
        keep_open: matches!(kind, RequestType::Version | RequestType::FeatureCheck).then_some(true),
        features: asks_features.then_some(wire::Features { memory_tracking: Some(true), lazy_pages: Some(true) }),
    };
    request.encode_to_vec()
}

/// A point at which CRIU waits for the runtime.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notification {
    pub script: String,
    /// The root of the process tree, if there is one.
    pub pid: Option<i32>,
}

/// `criu_resp`
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// `None`: a kind that the runtime never asks for.
    pub kind: Option<RequestType>,
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
        let response =
            CriuResp::decode(message).map_err(|e| Error::new(format_args!("malformed message from CRIU: {e}")))?;
        let notification = response.notify.unwrap_or_default();
        let features = response.features.unwrap_or_default();
        Ok(Self {
            kind: RequestType::ALL.into_iter().find(|known| *known as i32 == response.kind),
            success: response.success,
            restored_pid: process(response.restore.and_then(|restore| restore.pid)),
            notification: Notification {
                script: notification.script.as_deref().map(text).unwrap_or_default(),
                pid: process(notification.pid),
            },
            errno: response.errno,
            message: response.message.as_deref().map(text),
            features: Features {
                memory_tracking: features.memory_tracking.unwrap_or_default(),
                lazy_pages: features.lazy_pages.unwrap_or_default(),
            },
            version: response.version.map(version).unwrap_or_default(),
        })
    }
}

/// These texts are for people, so bytes that are not UTF-8 are replaced.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The answer to a failed request has -1. 0 and -1 must never be taken for a pid: in kill(2) they are the caller's
/// group and all processes.
fn process(pid: Option<i32>) -> Option<i32> {
    pid.filter(|pid| *pid > 0)
}

/// A version built from sources between two releases counts as the next release, as in `criu --version`.
fn version(version: wire::Version) -> i64 {
    let [major, minor, sublevel] = [version.major, version.minor, version.sublevel.unwrap_or_default()].map(i64::from);
    let (minor, sublevel) = if version.git.is_some() { (minor + 1, 0) } else { (minor, sublevel) };
    major * 10000 + minor * 100 + sublevel
}

/// The messages of `rpc.proto`, with the fields that berth uses. Texts that may contain any bytes, such as paths, are
/// bytes here, which are encoded alike.
mod wire {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub struct CriuReq {
        #[prost(int32, required, tag = "1")]
        pub kind: i32,
        #[prost(message, optional, tag = "2")]
        pub options: Option<CriuOpts>,
        #[prost(bool, optional, tag = "3")]
        pub notify_success: Option<bool>,
        #[prost(bool, optional, tag = "4")]
        pub keep_open: Option<bool>,
        #[prost(message, optional, tag = "5")]
        pub features: Option<Features>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct CriuOpts {
        #[prost(int32, required, tag = "1")]
        pub images_dir_fd: i32,
        #[prost(int32, optional, tag = "2")]
        pub pid: Option<i32>,
        #[prost(bool, optional, tag = "3")]
        pub leave_running: Option<bool>,
        #[prost(bool, optional, tag = "4")]
        pub ext_unix_sk: Option<bool>,
        #[prost(bool, optional, tag = "5")]
        pub tcp_established: Option<bool>,
        #[prost(bool, optional, tag = "6")]
        pub evasive_devices: Option<bool>,
        #[prost(bool, optional, tag = "7")]
        pub shell_job: Option<bool>,
        #[prost(bool, optional, tag = "8")]
        pub file_locks: Option<bool>,
        #[prost(int32, optional, tag = "9")]
        pub log_level: Option<i32>,
        #[prost(string, optional, tag = "10")]
        pub log_file: Option<String>,
        #[prost(message, optional, tag = "11")]
        pub page_server: Option<PageServer>,
        #[prost(bool, optional, tag = "12")]
        pub notify_scripts: Option<bool>,
        #[prost(bytes = "vec", optional, tag = "13")]
        pub root: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "14")]
        pub parent_images: Option<Vec<u8>>,
        #[prost(bool, optional, tag = "15")]
        pub track_memory: Option<bool>,
        #[prost(bool, optional, tag = "16")]
        pub auto_dedup: Option<bool>,
        #[prost(int32, optional, tag = "17")]
        pub work_dir_fd: Option<i32>,
        #[prost(bool, optional, tag = "18")]
        pub link_remap: Option<bool>,
        #[prost(message, repeated, tag = "23")]
        pub external_mounts: Vec<MountMap>,
        #[prost(bool, optional, tag = "24")]
        pub manage_cgroups: Option<bool>,
        #[prost(message, repeated, tag = "25")]
        pub cgroup_roots: Vec<CgroupRoot>,
        #[prost(bool, optional, tag = "26")]
        pub as_siblings: Option<bool>,
        #[prost(message, repeated, tag = "27")]
        pub inherit_fds: Vec<InheritFd>,
        #[prost(int32, optional, tag = "34")]
        pub cgroups_mode: Option<i32>,
        #[prost(string, repeated, tag = "37")]
        pub external: Vec<String>,
        #[prost(uint32, optional, tag = "38")]
        pub empty_namespaces: Option<u32>,
        #[prost(message, repeated, tag = "39")]
        pub join_namespaces: Vec<JoinNamespace>,
        #[prost(bytes = "vec", optional, tag = "44")]
        pub freeze_cgroup: Option<Vec<u8>>,
        #[prost(bool, optional, tag = "46")]
        pub tcp_skip_in_flight: Option<bool>,
        #[prost(bool, optional, tag = "48")]
        pub lazy_pages: Option<bool>,
        #[prost(bool, optional, tag = "50")]
        pub orphan_pts_master: Option<bool>,
        #[prost(bytes = "vec", optional, tag = "51")]
        pub config_file: Option<Vec<u8>>,
        #[prost(bool, optional, tag = "52")]
        pub tcp_close: Option<bool>,
        #[prost(string, optional, tag = "53")]
        pub lsm_profile: Option<String>,
        #[prost(string, optional, tag = "63")]
        pub lsm_mount_context: Option<String>,
        #[prost(int32, optional, tag = "64")]
        pub network_lock: Option<i32>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct PageServer {
        #[prost(string, optional, tag = "1")]
        pub address: Option<String>,
        #[prost(int32, optional, tag = "2")]
        pub port: Option<i32>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct MountMap {
        #[prost(string, required, tag = "1")]
        pub key: String,
        #[prost(string, required, tag = "2")]
        pub value: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct CgroupRoot {
        #[prost(string, required, tag = "1")]
        pub ctrl: String,
        #[prost(bytes = "vec", required, tag = "2")]
        pub path: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct InheritFd {
        #[prost(string, required, tag = "1")]
        pub key: String,
        #[prost(int32, required, tag = "2")]
        pub fd: i32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct JoinNamespace {
        #[prost(string, required, tag = "1")]
        pub kind: String,
        #[prost(bytes = "vec", required, tag = "2")]
        pub file: Vec<u8>,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub struct Features {
        #[prost(bool, optional, tag = "1")]
        pub memory_tracking: Option<bool>,
        #[prost(bool, optional, tag = "2")]
        pub lazy_pages: Option<bool>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct CriuResp {
        #[prost(int32, required, tag = "1")]
        pub kind: i32,
        #[prost(bool, required, tag = "2")]
        pub success: bool,
        #[prost(message, optional, tag = "4")]
        pub restore: Option<Restored>,
        #[prost(message, optional, tag = "5")]
        pub notify: Option<Notify>,
        #[prost(int32, optional, tag = "7")]
        pub errno: Option<i32>,
        #[prost(message, optional, tag = "8")]
        pub features: Option<Features>,
        #[prost(bytes = "vec", optional, tag = "9")]
        pub message: Option<Vec<u8>>,
        #[prost(message, optional, tag = "10")]
        pub version: Option<Version>,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub struct Restored {
        #[prost(int32, optional, tag = "1")]
        pub pid: Option<i32>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Notify {
        #[prost(bytes = "vec", optional, tag = "1")]
        pub script: Option<Vec<u8>>,
        #[prost(int32, optional, tag = "2")]
        pub pid: Option<i32>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Version {
        #[prost(int32, required, tag = "1")]
        pub major: i32,
        #[prost(int32, required, tag = "2")]
        pub minor: i32,
        #[prost(bytes = "vec", optional, tag = "3")]
        pub git: Option<Vec<u8>>,
        #[prost(int32, optional, tag = "4")]
        pub sublevel: Option<i32>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        assert_eq!(request(RequestType::Version, None), b"\x08\x0a\x20\x01");
        assert_eq!(request(RequestType::FeatureCheck, None), b"\x08\x09\x20\x01\x2a\x04\x08\x01\x10\x01");
        assert_eq!(request(RequestType::Notify, None), b"\x08\x06\x18\x01");
    }

    /// The numbers of the fields that are set in a dump's options.
    fn fields(options: &Options) -> Vec<u32> {
        use prost::encoding::{DecodeContext, decode_key, skip_field};
        let mut bytes = &options.encode().encode_to_vec()[..];
        let mut numbers = Vec::new();
        while !bytes.is_empty() {
            let (number, wire_type) = decode_key(&mut bytes).unwrap();
            skip_field(wire_type, number, &mut bytes, DecodeContext::default()).unwrap();
            numbers.push(number);
        }
        numbers
    }

    #[test]
    fn only_what_is_set_is_said() {
        let always = [1, 9, 10, 12, 13, 24, 34, 38, 50];
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
        let set = fields(&all);
        let expected = [
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 23, 24, 25, 26, 27, 34, 37, 38, 39, 44, 46,
            48, 50, 51, 52, 53, 63, 64,
        ];
        assert_eq!(set, expected);
    }

    #[test]
    fn responses() {
        let restored = Response::decode(b"\x08\x02\x10\x01\x22\x02\x08\x2a").unwrap();
        assert_eq!(
            (restored.kind, restored.success, restored.restored_pid),
            (Some(RequestType::Restore), true, Some(42))
        );
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
            assert_eq!(version(wire::Version::decode(fields).unwrap()), expected);
        }
    }

    #[test]
    fn hostile_responses_end_in_an_error() {
        for message in [
            &b"\x0a\x01x"[..],                                   // a type that is no number
            b"\x28\x01",                                         // a notification that is a number
            b"\x42\x05\x08\x01",                                 // features that break off
            b"\x52\x02\x0a\x00",                                 // a version that is a text
            b"\x08",                                             // a number that is missing
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // and one without an end
            b"\x4a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",     // a text as long as can be said
            b"\x0b",                                             // a group that does not end
            b"\x0e\x00",                                         // a type that there is not
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
