//! The resource limits of the process that init cannot set itself.

use rustix::io::Errno;
use rustix::process::{Pid, Rlimit as Values, getrlimit, prlimit};

use crate::error::{Error, Result};
use crate::plan::process::{Resource, Rlimit};

/// Raises hard limits, and does nothing else. Raising needs CAP_SYS_RESOURCE in the host's user namespace, which init
/// may have left. Init sets the limits right before exec, as they are for the user's process, not for init.
pub fn raise(pid: i32, rlimits: &[Rlimit]) -> Result<()> {
    for (index, limit) in rlimits.iter().enumerate() {
        let resource = limit.resource.kernel();
        // Init is a child, and has the limits of this process.
        let now = getrlimit(resource);
        let Some(maximum) = now.maximum.filter(|&maximum| maximum < limit.hard) else { continue };
        let raised = Values { current: now.current, maximum: limit.values().maximum };
        prlimit(Pid::from_raw(pid), resource, raised).map_err(|errno| {
            let call = format!("prlimit({}, from {maximum} to {})", limit.resource.name(), limit.hard);
            let error = Error::sys(call, errno).context(format_args!("/process/rlimits/{index}"));
            match errno {
                Errno::PERM if limit.resource == Resource::Nofile => error
                    .with_hint("to raise a hard limit takes CAP_SYS_RESOURCE, and no limit may be above fs.nr_open"),
                Errno::PERM => error.with_hint("to raise a hard limit takes CAP_SYS_RESOURCE on the host"),
                _ => error,
            }
        })?;
    }
    Ok(())
}
