//! From the types of the crate `oci-spec`, which many programs hold. Their JSON is what is read: one parser decides.

use oci_spec::runtime;
use serde::Serialize;

use super::error::{Error, Result};
use super::options::ExecOptions;
use super::spec::{Resources, Spec};
use crate::error;

fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(document).map_err(error::Error::new)?)
}

/// ```
/// let spec = oci_spec::runtime::Spec::default();
/// berth::Spec::try_from(&spec)?;
/// # Ok::<_, berth::Error>(())
/// ```
impl TryFrom<&runtime::Spec> for Spec {
    type Error = Error;

    fn try_from(spec: &runtime::Spec) -> Result<Self> {
        Self::from_json(json(spec)?)
    }
}

/// ```
/// let process = oci_spec::runtime::ProcessBuilder::default().args(["id".to_owned()]).build().unwrap();
/// let options = berth::ExecOptions::try_from(&process)?;
/// # assert!(format!("{options:?}").contains(r#"args: ["id"]"#));
/// # Ok::<_, berth::Error>(())
/// ```
impl TryFrom<&runtime::Process> for ExecOptions {
    type Error = Error;

    fn try_from(process: &runtime::Process) -> Result<Self> {
        Self::from_json(json(process)?)
    }
}

/// ```
/// use oci_spec::runtime::{LinuxPidsBuilder, LinuxResourcesBuilder};
///
/// let pids = LinuxPidsBuilder::default().limit(100).build().unwrap();
/// let resources = LinuxResourcesBuilder::default().pids(pids).build().unwrap();
/// let resources = berth::Resources::try_from(&resources)?;
/// # assert!(format!("{resources:?}").contains("limit: Some(100)"));
/// # Ok::<_, berth::Error>(())
/// ```
impl TryFrom<&runtime::LinuxResources> for Resources {
    type Error = Error;

    fn try_from(resources: &runtime::LinuxResources) -> Result<Self> {
        Self::from_json(json(resources)?)
    }
}
