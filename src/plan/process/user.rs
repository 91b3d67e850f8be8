//! The user, the groups and the umask of the process.

use serde::{Deserialize, Serialize};

use super::Facts;
use crate::error::{Error, Result};
use crate::spec::{self, IdMapping};

/// "If unspecified, the umask should not be changed from the calling process'": engines call with any umask, even 0,
/// and rely on the usual one.
const DEFAULT_UMASK: u32 = 0o022;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
    pub additional_gids: Vec<u32>,
    /// The groups stay as they are, and `additional_gids` is ignored.
    pub keep_groups: bool,
}

impl User {
    pub(super) fn plan(user: &spec::User, pointer: &str, facts: &Facts) -> Result<Self> {
        let umask = user.umask.unwrap_or(DEFAULT_UMASK);
        if umask > 0o777 {
            return Err(Error::config(format_args!("{pointer}/umask"), format_args!("{umask:#o} is more than 0o777")));
        }
        let (uids, gids) = (("/linux/uidMappings", facts.uid_mappings), ("/linux/gidMappings", facts.gid_mappings));
        check(user.uid, uids, || format!("{pointer}/uid"))?;
        check(user.gid, gids, || format!("{pointer}/gid"))?;
        for (i, &gid) in user.additional_gids.iter().enumerate() {
            check(gid, gids, || format!("{pointer}/additionalGids/{i}"))?;
        }
        Ok(Self {
            uid: user.uid,
            gid: user.gid,
            umask,
            additional_gids: user.additional_gids.clone(),
            keep_groups: false,
        })
    }
}

fn check(id: u32, (name, mappings): (&str, &[IdMapping]), pointer: impl Fn() -> String) -> Result<()> {
    // (uid_t)-1 makes setresuid(2) keep an id, which would be root's.
    if id == u32::MAX {
        return Err(Error::config(pointer(), format_args!("{id} is not a valid id")));
    }
    if mappings.is_empty() || mappings.iter().any(|m| m.to_host(id).is_some()) {
        return Ok(());
    }
    let ranges: Vec<String> = mappings.iter().map(|m| format!("{} (size {})", m.container_id, m.size)).collect();
    let message = format!("{id} is not mapped into the user namespace: {name} has {}", ranges.join(", "));
    Err(Error::config(pointer(), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(user: spec::User, facts: &Facts) -> Result<User> {
        User::plan(&user, "/process/user", facts)
    }

    #[test]
    fn every_id_must_be_mapped() {
        let map = [
            IdMapping { container_id: 0, host_id: 100_000, size: 10 },
            IdMapping { container_id: 1000, host_id: 1000, size: 1 },
        ];
        let facts = Facts { uid_mappings: &map, gid_mappings: &map, ..Facts::default() };
        let user = |uid, gid, additional_gids| spec::User { uid, gid, umask: None, additional_gids };
        assert_eq!(planned(user(9, 1000, vec![0]), &facts).unwrap().umask, 0o022);
        let table = [
            (
                user(10, 0, vec![]),
                "/process/user/uid: 10 is not mapped into the user namespace: /linux/uidMappings has 0 (size 10), 1000 (size 1)",
            ),
            (
                user(0, 1001, vec![]),
                "/process/user/gid: 1001 is not mapped into the user namespace: /linux/gidMappings has 0 (size 10), 1000 (size 1)",
            ),
            (
                user(0, 0, vec![1, 999]),
                "/process/user/additionalGids/1: 999 is not mapped into the user namespace: /linux/gidMappings has 0 (size 10), 1000 (size 1)",
            ),
        ];
        for (user, want) in table {
            assert_eq!(planned(user, &facts).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn the_id_that_means_none_is_refused() {
        for user in [
            spec::User { uid: u32::MAX, ..Default::default() },
            spec::User { gid: u32::MAX, ..Default::default() },
            spec::User { additional_gids: vec![u32::MAX], ..Default::default() },
            spec::User { umask: Some(0o1000), ..Default::default() },
        ] {
            assert!(planned(user.clone(), &Facts::default()).is_err(), "{user:?}");
        }
        assert_eq!(planned(spec::User { umask: Some(0), ..Default::default() }, &Facts::default()).unwrap().umask, 0);
    }
}
