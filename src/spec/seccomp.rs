//! `linux.seccomp` (runtime-spec, config-linux.md#seccomp).

use serde::Deserialize;

use super::nullable;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Seccomp {
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub architectures: Vec<String>,
    /// Absent and empty differ: runc applies its default flags only if the field is absent.
    pub flags: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable")]
    pub listener_path: String,
    #[serde(deserialize_with = "nullable")]
    pub listener_metadata: String,
    #[serde(deserialize_with = "nullable")]
    pub syscalls: Vec<Syscall>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Syscall {
    #[serde(deserialize_with = "nullable")]
    pub names: Vec<String>,
    pub action: String,
    pub errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub args: Vec<SyscallArg>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SyscallArg {
    pub index: u32,
    pub value: u64,
    pub value_two: u64,
    pub op: String,
}
