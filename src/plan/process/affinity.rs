//! Lists of CPUs and NUMA nodes, as in `0-3,7`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec;

/// A sanity limit that is above the kernel's own (8192 CPUs, 1024 nodes).
const MAX: u32 = 64 * 1024;

/// One bit for each CPU or node, the first in the lowest bit of the first word; the last word is not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMask(Vec<u64>);

impl CpuMask {
    /// A list as in cpuset(7), where spaces around and empty elements are allowed; `None` for an empty text.
    pub(in crate::plan) fn parse(list: &str) -> Result<Option<Self>, String> {
        if list.is_empty() {
            return Ok(None);
        }
        let mut mask = Vec::new();
        for element in list.split(',').map(str::trim).filter(|element| !element.is_empty()) {
            let (first, last) = element.split_once('-').unwrap_or((element, element));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("invalid range: {element}"));
            }
            if mask.len() <= last / 64 {
                mask.resize(last / 64 + 1, 0_u64);
            }
            for id in first..=last {
                mask[id / 64] |= 1 << (id % 64);
            }
        }
        if mask.is_empty() {
            return Err(format!("no members found in set {list:?}"));
        }
        Ok(Some(Self(mask)))
    }

    pub fn words(&self) -> &[u64] {
        &self.0
    }

    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

fn number(text: &str) -> Result<usize, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(id) if digits && id <= MAX => Ok(id as usize),
        Ok(_) if digits => Err(format!("values larger than {MAX} are not supported")),
        _ => Err(format!("{text:?} is not a number of 32 bits")),
    }
}

/// The CPUs on which `exec` runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Until the process is in the container's cgroup, whose cpuset may lack these CPUs.
    pub initial: Option<CpuMask>,
    /// After that.
    pub last: Option<CpuMask>,
}

pub(super) fn plan(affinity: Option<&spec::CpuAffinity>, pointer: &str) -> Result<Option<Affinity>> {
    let Some(affinity) = affinity else { return Ok(None) };
    let parse = |list: &str, field: &str| {
        CpuMask::parse(list).map_err(|why| {
            Error::config(format_args!("{pointer}/{field}"), format_args!("bad CPU list {list:?}: {why}"))
        })
    };
    let (initial, last) = (parse(&affinity.initial, "initial")?, parse(&affinity.last, "final")?);
    Ok((initial.is_some() || last.is_some()).then_some(Affinity { initial, last }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_masks() {
        let table: [(&str, &[u64]); 6] = [
            ("0", &[1]),
            ("0-3,7", &[0x8f]),
            (" 1 , ,2,", &[6]),
            ("63-64", &[1 << 63, 1]),
            ("128", &[0, 0, 1]),
            ("5-5", &[32]),
        ];
        for (list, want) in table {
            assert_eq!(CpuMask::parse(list).unwrap().unwrap().words(), want, "{list}");
        }
        assert_eq!(CpuMask::parse("0-7").unwrap().unwrap().count(), 8);
        assert_eq!(CpuMask::parse(""), Ok(None));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for list in [",", " ", "a", "-1", "1-", "3-1", "+1", "0-9876543210", "65537", "1--2", "0x1"] {
            assert!(CpuMask::parse(list).is_err(), "{list}");
        }
        assert!(CpuMask::parse("65536").is_ok());
    }

    #[test]
    fn affinity_names_the_field() {
        let affinity = spec::CpuAffinity { initial: "0".into(), last: "x".into() };
        let got = plan(Some(&affinity), "/process/execCPUAffinity").unwrap_err().to_string();
        assert_eq!(got, "/process/execCPUAffinity/final: bad CPU list \"x\": \"x\" is not a number of 32 bits");
        assert_eq!(plan(Some(&spec::CpuAffinity::default()), "").unwrap(), None);
    }
}
