//! The names that the modules below know, for `features`.

use crate::plan::namespaces::NamespaceKind;
use crate::plan::process::{MemoryPolicy, capability_names};
use crate::plan::{annotations, mounts, seccomp};
use crate::sys;

/// The words that a configuration may use. Each list comes from the code that acts on it.
#[derive(Debug)]
pub struct Features {
    pub mount_options: &'static [&'static str],
    pub namespaces: Vec<&'static str>,
    pub capabilities: Vec<String>,
    pub seccomp_actions: Vec<&'static str>,
    pub seccomp_operators: &'static [&'static str],
    pub seccomp_architectures: Vec<String>,
    pub seccomp_flags: Vec<&'static str>,
    /// The only list that depends on the machine.
    pub seccomp_flags_of_this_kernel: Vec<&'static str>,
    pub memory_policy_modes: Vec<&'static str>,
    pub memory_policy_flags: Vec<&'static str>,
    /// The annotations, or their prefixes, that change what the runtime does.
    pub annotations: &'static [&'static str],
}

impl Features {
    pub fn of_this_build() -> Self {
        let flags = |supported: &dyn Fn(u32) -> bool| {
            sorted(seccomp::FLAGS.iter().filter(|(_, bits)| supported(*bits)).map(|(name, _)| *name))
        };
        let (modes, policy_flags) = MemoryPolicy::names();
        Self {
            mount_options: mounts::KNOWN_OPTIONS,
            namespaces: sorted(NamespaceKind::ALL.iter().map(|kind| kind.name())),
            capabilities: capability_names(),
            seccomp_actions: sorted(seccomp::ACTIONS.iter().map(|(name, _)| *name)),
            seccomp_operators: &seccomp::OPERATORS,
            seccomp_architectures: seccomp::architectures().collect(),
            seccomp_flags: flags(&|_| true),
            seccomp_flags_of_this_kernel: flags(&sys::seccomp::knows_flags),
            memory_policy_modes: sorted(modes.into_iter()),
            memory_policy_flags: policy_flags,
            annotations: &["org.criu.config", "org.systemd.property.", annotations::PREFIX],
        }
    }
}

fn sorted(names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_in_order_and_names_nothing_twice() {
        let known = Features::of_this_build();
        for list in [
            known.mount_options,
            &known.namespaces,
            &known.seccomp_actions,
            known.seccomp_operators,
            &known.seccomp_flags,
            &known.memory_policy_modes,
            &known.memory_policy_flags,
            known.annotations,
        ] {
            assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
        }
        assert!(known.seccomp_architectures.is_sorted_by(|a, b| a < b), "{:?}", known.seccomp_architectures);
        assert!(known.seccomp_flags_of_this_kernel.iter().all(|flag| known.seccomp_flags.contains(flag)));
    }
}
