//! Annotations that change what the runtime does: `run.oci.*`, as in crun. All others are the user's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// Annotations with this prefix may change what the runtime does.
pub const PREFIX: &str = "run.oci.";

/// An annotation of crun that has no effect here, which its user should know.
const PLUGINS: &str = "run.oci.seccomp.plugins";

/// As the environment's `RUN_OCI_SECCOMP_RECEIVER`. The annotation takes precedence.
pub const SECCOMP_RECEIVER: &str = "run.oci.seccomp.receiver";

/// The requests in the annotations of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Files of the host that take the output of hooks.
    pub hooks_stdout: Option<PathBuf>,
    pub hooks_stderr: Option<PathBuf>,
    /// The process keeps the runtime's supplementary groups.
    pub keep_groups: bool,
    /// As `--pidfd-socket`.
    pub pidfd_receiver: Option<PathBuf>,
    /// The destination of the mount that becomes systemd's own v1 hierarchy, which is all that an older systemd knows.
    pub force_cgroup_v1: Option<String>,
    /// The mount option that takes the label of files (mount(8)).
    pub mount_context: MountContext,
    /// As the `listenerPath` of a profile that has none.
    pub seccomp_receiver: Option<String>,
    /// Names that are system calls of no architecture are errors.
    pub refuse_unknown_syscalls: bool,
    /// A filter in place of the profile's: an array of `struct sock_filter`.
    pub seccomp_program: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountContext {
    #[default]
    Files,
    FileSystem,
    Default,
    Root,
}

impl MountContext {
    pub fn option(self) -> &'static str {
        match self {
            Self::Files => "context",
            Self::FileSystem => "fscontext",
            Self::Default => "defcontext",
            Self::Root => "rootcontext",
        }
    }
}

impl Annotations {
    pub fn plan(annotations: &BTreeMap<String, String>) -> Result<Self> {
        let mut planned = Self::default();
        check_handler(annotations)?;
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            planned.read(name, value).map_err(|message| Error::config(format_args!("/annotations/{key}"), message))?;
        }
        Ok(planned)
    }

    fn read(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "hooks.stdout" => self.hooks_stdout = Some(absolute(value)?.into()),
            "hooks.stderr" => self.hooks_stderr = Some(absolute(value)?.into()),
            "keep_original_groups" => self.keep_groups = boolean(value)?,
            "pidfd_receiver" => self.pidfd_receiver = Some(absolute(value)?.into()),
            "systemd.force_cgroup_v1" => self.force_cgroup_v1 = Some(absolute(value)?.to_owned()),
            "mount_context_type" => self.mount_context = mount_context(value)?,
            "seccomp.receiver" => self.seccomp_receiver = Some(absolute(value)?.to_owned()),
            "seccomp_fail_unknown_syscall" => self.refuse_unknown_syscalls = boolean(value)?,
            "seccomp_bpf_data" => self.seccomp_program = Some(program(value)?),
            _ => {}
        }
        Ok(())
    }

    /// The warning for an annotation without effect.
    pub fn warning(annotations: &BTreeMap<String, String>) -> Option<String> {
        annotations.contains_key(PLUGINS).then(|| format!("/annotations/{PLUGINS}: not supported, and ignored"))
    }

    /// Removes them for callers that expect runc, which has none: an engine may let the author of a pod write them.
    pub fn disregard(annotations: &mut BTreeMap<String, String>) {
        annotations.retain(|key, _| !key.starts_with(PREFIX));
    }

    pub fn redirect_hooks(&self) -> bool {
        self.hooks_stdout.is_some() || self.hooks_stderr.is_some()
    }
}

/// Other handlers isolate by a virtual machine, or interpret another format. An ordinary container in their place would
/// be weaker than asked for. A pod's sandbox has the annotations of the pod, and is always an ordinary process.
fn check_handler(annotations: &BTreeMap<String, String>) -> Result<()> {
    const HANDLER: &str = "run.oci.handler";
    const CRI_TYPE: &str = "io.kubernetes.cri.container-type";
    match annotations.get(HANDLER) {
        Some(handler) if !handler.is_empty() && annotations.get(CRI_TYPE).is_none_or(|kind| kind != "sandbox") => {
            let message = format_args!("there is no handler {handler:?}, only ordinary containers");
            Err(Error::config(format_args!("/annotations/{HANDLER}"), message)
                .with_hint("without the annotation, or with an empty one, it runs as an ordinary container"))
        }
        _ => Ok(()),
    }
}

fn absolute(path: &str) -> Result<&str, String> {
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(path),
        false => Err(format!("{path:?} is not an absolute path")),
    }
}

fn boolean(word: &str) -> Result<bool, String> {
    match word {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("{word:?} is neither 1 nor 0")),
    }
}

fn mount_context(word: &str) -> Result<MountContext, String> {
    let all = [MountContext::Files, MountContext::FileSystem, MountContext::Default, MountContext::Root];
    let known = all.into_iter().find(|context| context.option() == word);
    known.ok_or_else(|| format!("{word:?} is none of context, fscontext, defcontext and rootcontext"))
}

fn program(text: &str) -> Result<Vec<u8>, String> {
    let bytes = base64(text).ok_or("is not base64")?;
    match bytes.len() {
        0 => Err("is empty".to_owned()),
        length if length % super::seccomp::INSTRUCTION != 0 => {
            Err(format!("holds {length} bytes, which are no whole instructions of {}", super::seccomp::INSTRUCTION))
        }
        length if length / super::seccomp::INSTRUCTION > super::seccomp::MAX_INSTRUCTIONS => {
            Err(format!("holds more than the kernel's {} instructions", super::seccomp::MAX_INSTRUCTIONS))
        }
        _ => Ok(bytes),
    }
}

/// RFC 4648, section 4; the padding may be missing.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end().trim_end_matches('=').as_bytes();
    if digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut bits = 0;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(name: &str, value: &str) -> Result<Annotations> {
        Annotations::plan(&BTreeMap::from([(format!("run.oci.{name}"), value.to_owned())]))
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, wanted) in [
            ("", Some("")),
            ("Zg==", Some("f")),
            ("Zm8=", Some("fo")),
            ("Zm9v", Some("foo")),
            ("Zm9vYg==\n", Some("foob")),
            ("Zm9vYmE", Some("fooba")),
            ("Zm9vYmFy", Some("foobar")),
            ("Zm9vY", None),
            ("Zm9-", None),
            ("Zm 9v", None),
        ] {
            assert_eq!(base64(text), wanted.map(|text| text.as_bytes().to_vec()), "{text:?}");
        }
        assert_eq!(base64("+/+/"), Some(vec![0xfb, 0xff, 0xbf]));
    }

    #[test]
    fn known_annotations_are_read_and_others_left() {
        let wanted = Annotations { keep_groups: true, ..Annotations::default() };
        assert_eq!(planned("keep_original_groups", "1").unwrap(), wanted);
        assert_eq!(planned("keep_original_groups", "0").unwrap(), Annotations::default());
        assert_eq!(planned("something.else", "?").unwrap(), Annotations::default());
        let context = planned("mount_context_type", "fscontext").unwrap().mount_context;
        assert_eq!(context.option(), "fscontext");
        assert_eq!(planned("seccomp_bpf_data", "BgAAAAAA/38=").unwrap().seccomp_program.unwrap().len(), 8);
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (name, value, message) in [
            ("hooks.stdout", "log", "\"log\" is not an absolute path"),
            ("hooks.stderr", "", "\"\" is not an absolute path"),
            ("pidfd_receiver", "/a\0", "\"/a\\0\" is not an absolute path"),
            ("seccomp.receiver", "socket", "\"socket\" is not an absolute path"),
            ("systemd.force_cgroup_v1", "1", "\"1\" is not an absolute path"),
            ("keep_original_groups", "yes", "\"yes\" is neither 1 nor 0"),
            ("seccomp_fail_unknown_syscall", "", "\"\" is neither 1 nor 0"),
            ("mount_context_type", "label", "\"label\" is none of context, fscontext, defcontext and rootcontext"),
            ("seccomp_bpf_data", "?", "is not base64"),
            ("seccomp_bpf_data", "", "is empty"),
            ("seccomp_bpf_data", "Zm9v", "holds 3 bytes, which are no whole instructions of 8"),
        ] {
            let error = planned(name, value).unwrap_err().to_string();
            assert_eq!(error, format!("/annotations/run.oci.{name}: {message}"));
        }
    }
}
