//! The documents of the runtime specification that a program may hold in memory.

use super::error::Result;
use crate::spec;

/// A configuration: what a bundle has in `config.json` (runtime-spec, config.md).
///
/// It is taken as it is. [`Runtime::create`](super::Runtime::create) checks it against the machine, and the container
/// keeps a copy.
#[derive(Clone, Debug)]
pub struct Spec {
    pub(super) text: Vec<u8>,
}

impl Spec {
    /// Fails if the text is not JSON of that form. [`Error::pointer`](super::Error::pointer) names the value at fault.
    pub fn from_json(text: impl AsRef<[u8]>) -> Result<Self> {
        let text = text.as_ref().to_vec();
        spec::Spec::parse(&text)?;
        Ok(Self { text })
    }
}

/// Limits of a container, in the form of `linux.resources` of a configuration (runtime-spec, config-linux.md). What is
/// not named stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub(super) resources: spec::Resources,
}

impl Resources {
    /// Fails if the text is not JSON of that form. [`Error::pointer`](super::Error::pointer) names the value at fault.
    pub fn from_json(text: impl AsRef<[u8]>) -> Result<Self> {
        Ok(Self { resources: spec::parse(text.as_ref())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::{ErrorKind, ExecOptions};

    #[test]
    fn the_value_at_fault_is_named() {
        let e = Spec::from_json(r#"{"ociVersion":"1.0.2","process":{"cwd":7}}"#).unwrap_err();
        assert_eq!((e.kind(), e.pointer()), (ErrorKind::InvalidConfiguration, Some("/process/cwd")), "{e}");
        let e = Resources::from_json(r#"{"pids":{"limit":"many"}}"#).unwrap_err();
        assert_eq!((e.kind(), e.pointer()), (ErrorKind::InvalidConfiguration, Some("/pids/limit")), "{e}");
        let e = ExecOptions::from_json(r#"{"args":["a",1]}"#).unwrap_err();
        assert_eq!((e.kind(), e.pointer()), (ErrorKind::InvalidConfiguration, Some("/args/1")), "{e}");
    }
}
