//! User namespaces, and the ids that an ordinary user may map.

use std::os::unix::fs::PermissionsExt;

use super::{Report, is_root, number, program, why_not};
use crate::sys::helper;

/// What can forbid a user namespace, the value that does, and how to allow it.
const SWITCHES: [(&str, u64, &str); 3] = [
    ("user/max_user_namespaces", 0, "sysctl user.max_user_namespaces=15000"),
    ("kernel/unprivileged_userns_clone", 0, "sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        1,
        "an AppArmor profile for berth with the rule `userns`, or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

pub fn examine(report: &mut Report) {
    namespaces(report);
    if is_root() {
        match program("newuidmap") {
            Some(_) => report.ok("newuidmap", "is installed: ordinary users can map the ids of /etc/subuid"),
            None => report.notice(
                "newuidmap",
                "is not installed: containers of ordinary users have one id only",
                "apt-get install uidmap, dnf install shadow-utils",
            ),
        }
    } else {
        ids(report);
    }
}

fn namespaces(report: &mut Report) {
    let said = helper::user_namespace().map(drop);
    let switch = SWITCHES.iter().find(|(name, value, _)| number(&format!("/proc/sys/{name}")) == Some(*value));
    match (said, switch) {
        // AppArmor lets the namespace be made, and then takes the capabilities in it away.
        (Ok(()), Some((name, value, cure))) if name.contains("apparmor") && !is_root() => {
            report.warning("user namespaces", format!("{} is {value}", name.replace('/', ".")), *cure);
        }
        (Ok(()), _) => report.ok("user namespaces", "can be made"),
        (Err(errno), switch) => {
            let errno = crate::error::describe(errno);
            let found = match switch {
                Some((name, value, _)) => format!("cannot be made: {errno}: {} is {value}", name.replace('/', ".")),
                None => format!("cannot be made: {errno}"),
            };
            let cure = switch
                .map_or("the kernel needs CONFIG_USER_NS; in a container, its seccomp profile must allow them", |s| {
                    s.2
                });
            // Without one, an ordinary user cannot start any container.
            if is_root() {
                report.warning("user namespaces", found, cure);
            } else {
                report.error("user namespaces", found, cure);
            }
        }
    }
}

/// subuid(5), newuidmap(1).
fn ids(report: &mut Report) {
    let uid = rustix::process::geteuid().as_raw();
    if uid == 0 {
        return report.unseen("ids", "they are granted to the owner of this user namespace");
    }
    // As newuidmap finds the name: by the uid.
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&&*uid.to_string()));
    let name = entry.map_or_else(|| uid.to_string(), |fields| fields[0].to_owned());
    let granted = ["/etc/subuid", "/etc/subgid"].map(|file| std::fs::read_to_string(file).unwrap_or_default());
    let free = first_free(granted.iter().map(String::as_str));
    for ((file, tool), text) in [("/etc/subuid", "newuidmap"), ("/etc/subgid", "newgidmap")].into_iter().zip(&granted) {
        let range =
            text.lines().find(|line| line.split(':').next().is_some_and(|who| who == name || who == uid.to_string()));
        let Some(range) = range else {
            let range = format!("{free}-{}", free + 65535);
            let cure = format!("as root: usermod --add-subuids {range} --add-subgids {range} {name}");
            report.warning("ids", format!("{file} grants no ids to user {name}: a container has one id only"), cure);
            continue;
        };
        match program(tool) {
            None => report.warning("ids", why_not(tool), "apt-get install uidmap, dnf install shadow-utils"),
            Some(path) => {
                // Distributions give it the one or the other.
                let mode = std::fs::metadata(&path).map_or(0, |found| found.permissions().mode());
                let has_capabilities = rustix::fs::getxattr(&path, c"security.capability", &mut [0u8; 64][..]).is_ok();
                if mode & 0o6000 != 0 || has_capabilities {
                    report.ok("ids", format!("{file}: {range}"));
                } else {
                    let cure = format!("as root: chmod u+s {}", path.display());
                    report.warning(
                        "ids",
                        format!("{} has neither the set-user-ID bit nor capabilities", path.display()),
                        cure,
                    );
                }
            }
        }
    }
}

/// Where a range begins that nobody has: two users with the same ids would own each other's containers.
fn first_free<'a>(files: impl Iterator<Item = &'a str>) -> u64 {
    let end = |line: &str| {
        let mut numbers = line.split(':').skip(1).map(|field| field.trim().parse::<u64>().ok());
        Some(numbers.next()?? + numbers.next()??)
    };
    files.flat_map(str::lines).filter_map(end).fold(100_000, u64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_range_is_behind_all_others() {
        assert_eq!(first_free(["", "# none\nx:1"].into_iter()), 100_000);
        assert_eq!(first_free(["alice:100000:65536\n", "alice:100000:65536\nbob:165536:10\n"].into_iter()), 165_546);
    }
}
