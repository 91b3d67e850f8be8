//! Security modules.

use std::path::Path;

use super::Report;
use crate::host::lsm;

pub fn examine(report: &mut Report) {
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").ok().filter(|text| !text.trim().is_empty());
    let found = lsm("any", "any");
    if !found.apparmor && Path::new("/sys/module/apparmor").exists() && modules.is_none() {
        report.unseen("AppArmor", "securityfs is not mounted on /sys/kernel/security");
    } else if found.apparmor {
        report.ok("AppArmor", "is enabled");
    } else {
        report.ok("AppArmor", "is not enabled: a configuration with apparmorProfile is refused");
    }
    if found.selinux {
        let enforced = std::fs::read("/sys/fs/selinux/enforce").is_ok_and(|text| text.first() == Some(&b'1'));
        report.ok("SELinux", if enforced { "is enforced" } else { "is permissive: it forbids nothing" });
    } else {
        report.ok("SELinux", "is not enabled: a configuration with selinuxLabel is refused");
    }
}
