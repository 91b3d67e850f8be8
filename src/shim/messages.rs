//! The messages of containerd's task API, of its events and of ttrpc, by the field numbers of their `.proto` files.
//! Versions 2 and 3 of the task API have the same ones.

use std::time::{SystemTime, UNIX_EPOCH};

use prost::{Enumeration, Message};

/// `containerd.v1.types.Status`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Status {
    Unknown = 0,
    Created = 1,
    Running = 2,
    Stopped = 3,
    Paused = 4,
}

// ttrpc, request.proto

#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(string, tag = 1)]
    pub service: String,
    #[prost(string, tag = 2)]
    pub method: String,
    #[prost(bytes = "vec", tag = 3)]
    pub payload: Vec<u8>,
    #[prost(int64, tag = 4)]
    pub timeout_nano: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(message, optional, tag = 1)]
    pub status: Option<RpcStatus>,
    #[prost(bytes = "vec", tag = 2)]
    pub payload: Vec<u8>,
}

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    #[prost(int32, tag = 1)]
    pub code: i32,
    #[prost(string, tag = 2)]
    pub message: String,
}

// google/protobuf

#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub struct Any {
    #[prost(string, tag = 1)]
    pub type_url: String,
    #[prost(bytes = "vec", tag = 2)]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Timestamp {
    #[prost(int64, tag = 1)]
    pub seconds: i64,
    #[prost(int32, tag = 2)]
    pub nanos: i32,
}

// types/mount.proto

#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    #[prost(string, tag = 1)]
    pub kind: String,
    #[prost(string, tag = 2)]
    pub source: String,
    #[prost(string, tag = 3)]
    pub target: String,
    #[prost(string, repeated, tag = 4)]
    pub options: Vec<String>,
}

// runtime/task/v2/shim.proto

#[derive(Clone, PartialEq, Message)]
pub struct CreateRequest {
    #[prost(string, tag = 1)]
    pub id: String,
    #[prost(string, tag = 2)]
    pub bundle: String,
    #[prost(message, repeated, tag = 3)]
    pub rootfs: Vec<Mount>,
    #[prost(bool, tag = 4)]
    pub terminal: bool,
    #[prost(string, tag = 5)]
    pub stdin: String,
    #[prost(string, tag = 6)]
    pub stdout: String,
    #[prost(string, tag = 7)]
    pub stderr: String,
    #[prost(string, tag = 8)]
    pub checkpoint: String,
    #[prost(message, optional, tag = 10)]
    pub options: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PidResponse {
    #[prost(uint32, tag = 1)]
    pub pid: u32,
}

/// Delete, State, Start, Wait: a process by its container, and "" or the id of a further process.
#[derive(Clone, PartialEq, Message)]
pub struct ProcessRequest {
    #[prost(string, tag = 1)]
    pub id: String,
    #[prost(string, tag = 2)]
    pub exec_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeleteResponse {
    #[prost(uint32, tag = 1)]
    pub pid: u32,
    #[prost(uint32, tag = 2)]
    pub exit_status: u32,
    #[prost(message, optional, tag = 3)]
    pub exited_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ExecRequest {
    #[prost(string, tag = 1)]
    pub id: String,
    #[prost(string, tag = 2)]
    pub exec_id: String,
    #[prost(bool, tag = 3)]
    pub terminal: bool,
    #[prost(string, tag = 4)]
    pub stdin: String,
    #[prost(string, tag = 5)]
    pub stdout: String,
    #[prost(string, tag = 6)]
    pub stderr: String,
    #[prost(message, optional, tag = 7)]
    pub spec: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ResizeRequest {
    #[prost(string, tag = 1)]
    pub id: String,
    #[prost(string, tag = 2)]
    pub exec_id: String,
    #[prost(uint32, tag = 3)]
    pub width: u32,
    #[prost(uint32, tag = 4)]
    pub height: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct StateResponse {
    #[prost(string, tag = 1)]
    pub id: String,
    #[prost(string, tag = 2)]
    pub bundle: String,
    #[prost(uint32, tag = 3)]
    pub pid: u32,
    #[prost(enumeration = "Status", tag = 4)]
    pub status: i32,
    #[prost(string, tag = 5)]
    pub stdin: String,
    #[prost(string, tag = 6)]
    pub stdout: String,
    #[prost(string, tag = 7)]
    pub stderr: String,
    #[prost(bool, tag = 8)]
    pub terminal: bool,
    #[prost(uint32, tag = 9)]
    pub exit_status: u32,
    #[prost(message, optional, tag = 10)]
    pub exited_at: Option<Timestamp>,
    #[prost(string, tag = 11)]
    pub exec_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct KillRequest {
    #[prost(string, tag = 1)]
    pub id: String,
    #[prost(string, tag = 2)]
    pub exec_id: String,
    #[prost(uint32, tag = 3)]
    pub signal: u32,
    #[prost(bool, tag = 4)]
    pub all: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct CloseRequest {
    #[prost(string, tag = 1)]
    pub id: String,
    #[prost(string, tag = 2)]
    pub exec_id: String,
    #[prost(bool, tag = 3)]
    pub stdin: bool,
}

/// Pids, Pause, Resume, Stats, Connect: a container.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerRequest {
    #[prost(string, tag = 1)]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct PidsResponse {
    #[prost(message, repeated, tag = 1)]
    pub processes: Vec<ProcessInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ProcessInfo {
    #[prost(uint32, tag = 1)]
    pub pid: u32,
    #[prost(message, optional, tag = 2)]
    pub info: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CheckpointRequest {
    #[prost(string, tag = 1)]
    pub id: String,
    #[prost(string, tag = 2)]
    pub path: String,
    #[prost(message, optional, tag = 3)]
    pub options: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub struct UpdateRequest {
    #[prost(string, tag = 1)]
    pub id: String,
    #[prost(message, optional, tag = 2)]
    pub resources: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WaitResponse {
    #[prost(uint32, tag = 1)]
    pub exit_status: u32,
    #[prost(message, optional, tag = 2)]
    pub exited_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StatsResponse {
    #[prost(message, optional, tag = 1)]
    pub stats: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ConnectResponse {
    #[prost(uint32, tag = 1)]
    pub shim_pid: u32,
    #[prost(uint32, tag = 2)]
    pub task_pid: u32,
    #[prost(string, tag = 3)]
    pub version: String,
}

// types/runc/options/oci.proto

#[derive(Clone, PartialEq, Message)]
pub struct Options {
    #[prost(bool, tag = 1)]
    pub no_pivot_root: bool,
    #[prost(bool, tag = 2)]
    pub no_new_keyring: bool,
    #[prost(string, tag = 3)]
    pub shim_cgroup: String,
    #[prost(uint32, tag = 4)]
    pub io_uid: u32,
    #[prost(uint32, tag = 5)]
    pub io_gid: u32,
    #[prost(string, tag = 6)]
    pub binary_name: String,
    #[prost(string, tag = 7)]
    pub root: String,
    #[prost(bool, tag = 9)]
    pub systemd_cgroup: bool,
    #[prost(string, tag = 10)]
    pub criu_image_path: String,
    #[prost(string, tag = 11)]
    pub criu_work_path: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct CheckpointOptions {
    #[prost(bool, tag = 1)]
    pub exit: bool,
    #[prost(bool, tag = 2)]
    pub open_tcp: bool,
    #[prost(bool, tag = 3)]
    pub external_unix_sockets: bool,
    #[prost(bool, tag = 4)]
    pub terminal: bool,
    #[prost(bool, tag = 5)]
    pub file_locks: bool,
    #[prost(string, repeated, tag = 6)]
    pub empty_namespaces: Vec<String>,
    // Two more, `cgroups_mode` and `image_path`, have no effect, as in runc's shim.
    #[prost(string, tag = 9)]
    pub work_path: String,
    #[prost(string, tag = 10)]
    pub parent_path: String,
}

// types/runtimeoptions/v1/api.proto

/// What containerd passes to a runtime whose options it does not know.
#[derive(Clone, PartialEq, Message)]
pub struct AnyRuntimeOptions {
    #[prost(string, tag = 2)]
    pub config_path: String,
    #[prost(bytes = "vec", tag = 3)]
    pub config_body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ProcessDetails {
    #[prost(string, tag = 1)]
    pub exec_id: String,
}

// types/introspection.proto

#[derive(Clone, PartialEq, Message)]
pub struct RuntimeInfo {
    #[prost(string, tag = 1)]
    pub name: String,
    #[prost(message, optional, tag = 2)]
    pub version: Option<RuntimeVersion>,
    #[prost(message, optional, tag = 3)]
    pub options: Option<Any>,
    #[prost(message, optional, tag = 4)]
    pub features: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RuntimeVersion {
    #[prost(string, tag = 1)]
    pub version: String,
    #[prost(string, tag = 2)]
    pub revision: String,
}

// runtime/bootstrap/v1/bootstrap.proto

#[derive(Clone, PartialEq, Message)]
pub struct BootstrapParams {
    #[prost(string, tag = 1)]
    pub instance_id: String,
    #[prost(string, tag = 2)]
    pub namespace: String,
    #[prost(string, tag = 5)]
    pub containerd_ttrpc_address: String,
    #[prost(message, repeated, tag = 8)]
    pub extensions: Vec<Extension>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Extension {
    #[prost(message, optional, tag = 1)]
    pub value: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BootstrapResult {
    #[prost(int32, tag = 1)]
    pub version: i32,
    #[prost(string, tag = 2)]
    pub address: String,
    #[prost(string, tag = 3)]
    pub protocol: String,
}

// services/ttrpc/events/v1/events.proto, types/event.proto

#[derive(Clone, PartialEq, Message)]
pub struct ForwardRequest {
    #[prost(message, optional, tag = 1)]
    pub envelope: Option<Envelope>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    #[prost(message, optional, tag = 1)]
    pub timestamp: Option<Timestamp>,
    #[prost(string, tag = 2)]
    pub namespace: String,
    #[prost(string, tag = 3)]
    pub topic: String,
    #[prost(message, optional, tag = 4)]
    pub event: Option<Any>,
}

// events/task.proto

#[derive(Clone, PartialEq, Message)]
pub struct TaskCreate {
    #[prost(string, tag = 1)]
    pub container_id: String,
    #[prost(string, tag = 2)]
    pub bundle: String,
    #[prost(message, repeated, tag = 3)]
    pub rootfs: Vec<Mount>,
    #[prost(message, optional, tag = 4)]
    pub io: Option<TaskIo>,
    #[prost(string, tag = 5)]
    pub checkpoint: String,
    #[prost(uint32, tag = 6)]
    pub pid: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskIo {
    #[prost(string, tag = 1)]
    pub stdin: String,
    #[prost(string, tag = 2)]
    pub stdout: String,
    #[prost(string, tag = 3)]
    pub stderr: String,
    #[prost(bool, tag = 4)]
    pub terminal: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskStart {
    #[prost(string, tag = 1)]
    pub container_id: String,
    #[prost(uint32, tag = 2)]
    pub pid: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskDelete {
    #[prost(string, tag = 1)]
    pub container_id: String,
    #[prost(uint32, tag = 2)]
    pub pid: u32,
    #[prost(uint32, tag = 3)]
    pub exit_status: u32,
    #[prost(message, optional, tag = 4)]
    pub exited_at: Option<Timestamp>,
    #[prost(string, tag = 5)]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskExit {
    #[prost(string, tag = 1)]
    pub container_id: String,
    #[prost(string, tag = 2)]
    pub id: String,
    #[prost(uint32, tag = 3)]
    pub pid: u32,
    #[prost(uint32, tag = 4)]
    pub exit_status: u32,
    #[prost(message, optional, tag = 5)]
    pub exited_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskCheckpointed {
    #[prost(string, tag = 1)]
    pub container_id: String,
    #[prost(string, tag = 2)]
    pub checkpoint: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskExecAdded {
    #[prost(string, tag = 1)]
    pub container_id: String,
    #[prost(string, tag = 2)]
    pub exec_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct TaskExecStarted {
    #[prost(string, tag = 1)]
    pub container_id: String,
    #[prost(string, tag = 2)]
    pub exec_id: String,
    #[prost(uint32, tag = 3)]
    pub pid: u32,
}

/// `TaskOOM`, `TaskPaused`, `TaskResumed`
#[derive(Clone, PartialEq, Message)]
pub struct TaskEvent {
    #[prost(string, tag = 1)]
    pub container_id: String,
}

impl Any {
    pub fn new(type_url: &str, message: &impl Message) -> Self {
        Self { type_url: type_url.to_owned(), value: message.encode_to_vec() }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: since.as_secs().cast_signed(), nanos: since.subsec_nanos().cast_signed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As containerd's own encoder writes it.
    #[test]
    fn fields_have_the_numbers_of_the_protocol() {
        let state = StateResponse {
            id: "a".into(),
            pid: 300,
            status: Status::Stopped.into(),
            exec_id: "e".into(),
            ..Default::default()
        };
        assert_eq!(state.encode_to_vec(), b"\x0a\x01a\x18\xac\x02\x20\x03\x5a\x01e");
        let mount = Mount { kind: "bind".into(), options: vec!["ro".into(), "rbind".into()], ..Default::default() };
        assert_eq!(mount.encode_to_vec(), b"\x0a\x04bind\x22\x02ro\x22\x05rbind");
        assert_eq!(Options::decode(&b"\x48\x01\x3a\x02/r\x60\x05"[..]).unwrap().root, "/r");
    }
}
