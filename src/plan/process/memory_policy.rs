//! The NUMA memory policy (set_mempolicy(2); runtime-spec, config-linux.md, Memory policy).

use serde::{Deserialize, Serialize};

use super::CpuMask;
use crate::error::{Error, Result};
use crate::plan::hint_names;
use crate::spec;

/// By number (`<linux/mempolicy.h>`), with the number of nodes that it takes.
const MODES: [(&str, Nodes); 7] = [
    ("MPOL_DEFAULT", Nodes::None),
    ("MPOL_PREFERRED", Nodes::Any),
    ("MPOL_BIND", Nodes::Some),
    ("MPOL_INTERLEAVE", Nodes::Some),
    ("MPOL_LOCAL", Nodes::None),
    ("MPOL_PREFERRED_MANY", Nodes::Some),
    ("MPOL_WEIGHTED_INTERLEAVE", Nodes::Some),
];

const FLAGS: [(&str, i32); 3] =
    [("MPOL_F_NUMA_BALANCING", 1 << 13), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_STATIC_NODES", 1 << 15)];

enum Nodes {
    None,
    Some,
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// With its flags.
    pub mode: i32,
    pub nodes: CpuMask,
}

impl MemoryPolicy {
    /// The names of the modes and of the flags, for `features`.
    pub fn names() -> (Vec<&'static str>, Vec<&'static str>) {
        (MODES.iter().map(|(name, _)| *name).collect(), FLAGS.iter().map(|(name, _)| *name).collect())
    }

    pub(super) fn plan(policy: &spec::MemoryPolicy) -> Result<Self> {
        let refuse = |field: &str, message: String| Error::config(format!("/linux/memoryPolicy{field}"), message);
        let name = &policy.mode;
        let Some(mode) = MODES.iter().position(|(known, _)| known == name) else {
            let error = refuse("/mode", format!("invalid memory policy mode {name:?}"));
            return Err(hint_names(error, name, MODES.iter().map(|(name, _)| *name)));
        };
        let nodes = CpuMask::parse(&policy.nodes)
            .map_err(|why| refuse("/nodes", format!("invalid memory policy nodes {:?}: {why}", policy.nodes)))?
            .unwrap_or_default();
        let mut flags = 0;
        for (i, name) in policy.flags.iter().enumerate() {
            let flag = FLAGS.iter().find(|(known, _)| known == name);
            let flag = flag.ok_or_else(|| {
                let error = refuse(&format!("/flags/{i}"), format!("invalid memory policy flag {name:?}"));
                hint_names(error, name, FLAGS.iter().map(|(name, _)| *name))
            });
            flags |= flag?.1;
        }
        match (&MODES[mode].1, nodes.count()) {
            (Nodes::None, 0) if flags != 0 => Err(refuse("/flags", format!("{name} takes no nodes, and so no flags"))),
            (Nodes::None, 0) | (Nodes::Some, 1..) | (Nodes::Any, _) => Ok(Self { mode: mode as i32 | flags, nodes }),
            (Nodes::None, count) => {
                Err(refuse("/nodes", format!("memory policy mode requires 0 nodes but got {count}")))
            }
            (Nodes::Some, _) => {
                Err(refuse("/nodes", "memory policy mode requires at least one node but got 0".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(mode: &str, nodes: &str, flags: &[&str]) -> Result<MemoryPolicy> {
        let flags = flags.iter().map(|&f| f.to_owned()).collect();
        MemoryPolicy::plan(&spec::MemoryPolicy { mode: mode.into(), nodes: nodes.into(), flags })
    }

    #[test]
    fn modes_and_flags() {
        let table: [(&str, &str, &[&str], i32); 9] = [
            ("MPOL_DEFAULT", "", &[], 0),
            ("MPOL_PREFERRED", "", &[], 1),
            ("MPOL_BIND", "0", &["MPOL_F_STATIC_NODES"], 2 | 1 << 15),
            ("MPOL_PREFERRED", "0", &["MPOL_F_RELATIVE_NODES"], 1 | 1 << 14),
            ("MPOL_BIND", "0", &["MPOL_F_NUMA_BALANCING"], 2 | 1 << 13),
            ("MPOL_INTERLEAVE", "0,1", &[], 3),
            ("MPOL_LOCAL", "", &[], 4),
            ("MPOL_PREFERRED_MANY", "0,1", &[], 5),
            ("MPOL_WEIGHTED_INTERLEAVE", "0-3,7", &[], 6),
        ];
        for (mode, nodes, flags, want) in table {
            assert_eq!(plan(mode, nodes, flags).unwrap().mode, want, "{mode}");
        }
    }

    #[test]
    fn wrong_policies_are_refused() {
        let at = "/linux/memoryPolicy";
        let table: [(&str, &str, &[&str], String); 7] = [
            (
                "MPOL_LOCAL",
                "",
                &["MPOL_F_STATIC_NODES"],
                format!("{at}/flags: MPOL_LOCAL takes no nodes, and so no flags"),
            ),
            ("", "", &[], format!("{at}/mode: invalid memory policy mode \"\"")),
            ("INTERLEAVE", "0", &[], format!("{at}/mode: invalid memory policy mode \"INTERLEAVE\"")),
            (
                "MPOL_PREFERRED",
                "0",
                &["MPOL_F_RELATIVE_NODES", "bad"],
                format!("{at}/flags/1: invalid memory policy flag \"bad\""),
            ),
            ("MPOL_DEFAULT", "0-7", &[], format!("{at}/nodes: memory policy mode requires 0 nodes but got 8")),
            ("MPOL_BIND", "", &[], format!("{at}/nodes: memory policy mode requires at least one node but got 0")),
            (
                "MPOL_BIND",
                "0-9876543210",
                &[],
                format!(
                    "{at}/nodes: invalid memory policy nodes \"0-9876543210\": \"9876543210\" is not a number of 32 bits"
                ),
            ),
        ];
        for (mode, nodes, flags, want) in table {
            assert_eq!(plan(mode, nodes, flags).unwrap_err().to_string(), want);
        }
    }
}
