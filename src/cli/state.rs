//! `berth state`, and the document that it and `list` print.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;

use super::{Command, get_id, id, print, text, time};
use crate::error::{Error, Result};
use crate::runtime::Container;
use crate::spec::VERSION;

const UNKNOWN: &str = "unknown";

pub(super) const COMMAND: Command = Command {
    name: "state",
    about: "print the state of a container",
    options_end: false,
    options: |command| command.arg(id()),
    run: |global, matches| {
        let container = global.runtime.load(get_id(matches))?;
        let text = serde_json::to_string_pretty(&Document::new(&container, String::new())?).map_err(Error::new)?;
        print(&(text::json(&text) + "\n"))?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};

/// The state of the specification, with the fields that runc adds. Scripts compare the text, so the order is fixed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    oci_version: String,
    pub(super) id: String,
    pub(super) pid: i32,
    pub(super) status: String,
    pub(super) bundle: PathBuf,
    rootfs: PathBuf,
    pub(super) created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    pub(super) owner: String,
}

impl Document {
    pub(super) fn new(container: &Container, owner: String) -> Result<Self> {
        let state = container.state()?;
        Ok(Self {
            oci_version: state.oci_version,
            id: state.id,
            pid: state.pid,
            status: state.status.to_string(),
            bundle: state.bundle,
            rootfs: container.rootfs().to_owned(),
            created: time::nanoseconds(container.created()),
            annotations: state.annotations,
            owner,
        })
    }

    /// The document of a container whose record, or status, cannot be read.
    pub(super) fn unknown(id: String, created: SystemTime, owner: String) -> Self {
        Self {
            oci_version: VERSION.to_owned(),
            id,
            pid: 0,
            status: UNKNOWN.to_owned(),
            bundle: PathBuf::new(),
            rootfs: PathBuf::new(),
            created: time::nanoseconds(created),
            annotations: BTreeMap::new(),
            owner,
        }
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.status == UNKNOWN
    }
}
