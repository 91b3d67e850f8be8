//! What a container and a further process are made with, beside the bundle.

use super::spec::Spec;
use super::stdio::Stdio;
use crate::runtime;
use crate::spec::{self, Process};

/// How a container is created.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CreateOptions {
    pub(super) stdio: Stdio,
    pub(super) options: runtime::CreateOptions,
}

impl CreateOptions {
    /// With the configuration of the bundle, and `/dev/null` for the standard streams.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes this configuration in place of the bundle's `config.json`, which need not exist then. Relative paths in it
    /// begin at the bundle.
    #[must_use]
    pub fn spec(mut self, spec: Spec) -> Self {
        self.options.document = Some(spec.text);
        self
    }

    /// The standard streams of the container's process.
    #[must_use]
    pub fn stdio(mut self, stdio: Stdio) -> Self {
        self.stdio = stdio;
        self
    }

    /// Change the root by MS_MOVE and chroot(2), where pivot_root(2) cannot be used: on a ramdisk.
    #[must_use]
    pub fn no_pivot(mut self, no_pivot: bool) -> Self {
        self.options.no_pivot = no_pivot;
        self
    }

    /// Leave the container in the session keyring of the calling program.
    #[must_use]
    pub fn no_new_keyring(mut self, no_new_keyring: bool) -> Self {
        self.options.no_new_keyring = no_new_keyring;
        self
    }
}

/// A further process in a container.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ExecOptions {
    pub(super) stdio: Stdio,
    pub(super) options: runtime::ExecOptions,
}

impl ExecOptions {
    /// Runs `args` with all else that the container's own process has: its user, environment, capabilities ...
    pub fn new(args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { options: runtime::ExecOptions { args, ..Default::default() }, ..Self::default() }
    }

    /// Runs what a document says that has the form of `process` in a configuration. Fails if the text is not JSON of
    /// that form.
    pub fn from_json(process: impl AsRef<[u8]>) -> super::Result<Self> {
        let process = Some(spec::parse::<Process>(process.as_ref())?);
        Ok(Self { options: runtime::ExecOptions { process, ..Default::default() }, ..Self::default() })
    }

    /// The standard streams of the process. It has a terminal if they are one.
    #[must_use]
    pub fn stdio(mut self, stdio: Stdio) -> Self {
        self.options.terminal = stdio.is_terminal();
        if let Some(process) = &mut self.options.process {
            process.terminal = stdio.is_terminal();
        }
        self.stdio = stdio;
        self
    }

    /// Adds a variable, `NAME=VALUE`, to the environment.
    #[must_use]
    pub fn env(mut self, variable: impl Into<String>) -> Self {
        let env = self.options.process.as_mut().map_or(&mut self.options.env, |process| &mut process.env);
        env.push(variable.into());
        self
    }

    /// The working directory in the container.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<String>) -> Self {
        match &mut self.options.process {
            Some(process) => process.cwd = cwd.into(),
            None => self.options.cwd = Some(cwd.into()),
        }
        self
    }

    /// The numeric ids in the container.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        match &mut self.options.process {
            Some(process) => (process.user.uid, process.user.gid) = (uid, gid),
            None => self.options.user = Some((uid, Some(gid))),
        }
        self
    }
}
