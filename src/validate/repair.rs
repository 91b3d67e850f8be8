//! Changes a document so that one value of it is not refused again.

use crate::error::is_at_or_below;
use crate::plan::namespaces::NamespaceKind;
use crate::spec::source::Source;

/// What stands in for a value without which there is no configuration, or on which others depend.
const STAND_INS: [(&str, &str); 9] = [
    ("/ociVersion", "\"1.0.0\""),
    ("/process/args", "[\"-\"]"),
    ("/process/cwd", "\"/\""),
    ("/root", "{\"path\":\"rootfs\"}"),
    ("/linux/uidMappings", EVERY_ID),
    ("/linux/gidMappings", EVERY_ID),
    ("/linux/resources/memory/limit", "-1"),
    ("/linux/seccomp/defaultAction", "\"SCMP_ACT_ERRNO\""),
    // With the namespaces that are added below.
    ("/linux", "{\"namespaces\":[]}"),
];
const EVERY_ID: &str = "[{\"containerID\":0,\"hostID\":0,\"size\":4294967295}]";

/// Changes the document so that the value at `pointer` is not refused again, and no other one because of it. False if
/// nothing can be changed.
pub fn repair(source: &mut Source, pointer: &str) -> bool {
    let below = |of: &str| is_at_or_below(pointer, of);
    for (id, map) in [("/process/user/uid", "/linux/uidMappings"), ("/process/user/gid", "/linux/gidMappings")] {
        // The id that takes its place may not be mapped either.
        if pointer == id && source.get(map).is_some() && source.set(map, EVERY_ID) {
            source.remove(id);
            return true;
        }
    }
    // There is a flag that only a rule with this action allows, which the wrong rule may have been.
    let rule = pointer.split('/').take(5).collect::<Vec<_>>().join("/");
    if below("/linux/seccomp/syscalls")
        && source.text(&format!("{rule}/action")).is_some_and(|action| action == "SCMP_ACT_NOTIFY")
    {
        source.remove("/linux/seccomp/flags");
    }
    let stand_in = STAND_INS.iter().find(|(of, _)| if *of == "/linux" { pointer == *of } else { below(of) });
    let changed = match stand_in {
        Some((of, json)) => source.set(of, json) || take_out(source, of),
        None => take_out(source, pointer),
    };
    if changed && (pointer == "/linux" || below("/linux/namespaces")) {
        add_namespaces(source);
    }
    changed
}

/// Takes out the element of a list that the value belongs to, the outermost one, else the value itself. If it is gone
/// already, the object that lacks it goes.
fn take_out(source: &mut Source, pointer: &str) -> bool {
    let ends = pointer.match_indices('/').map(|(at, _)| at).skip(1).chain([pointer.len()]);
    let ways: Vec<_> = ends.map(|end| &pointer[..end]).collect();
    let element = ways.iter().find(|way| {
        let (list, index) = way.rsplit_once('/').unwrap_or_default();
        index.parse::<usize>().is_ok_and(|index| index < source.len(list))
    });
    match element {
        Some(element) => source.remove(element),
        None => ways.iter().rev().any(|way| source.remove(way)),
    }
}

/// Adds the namespaces that are not there, since the wrong entry may have been meant as one of them.
fn add_namespaces(source: &mut Source) {
    const LIST: &str = "/linux/namespaces";
    let has_maps = ["/linux/uidMappings", "/linux/gidMappings"].iter().any(|map| source.len(map) > 0);
    let entries = source.len(LIST);
    let there: Vec<_> = (0..entries).filter_map(|i| source.text(&format!("{LIST}/{i}/type"))).collect();
    let missing =
        NamespaceKind::ALL.iter().filter(|kind| **kind != NamespaceKind::User || has_maps).map(|kind| kind.name());
    let missing = missing.filter(|name| !there.iter().any(|there| there == name));
    let added: Vec<_> = missing.map(|name| format!("{{\"type\":\"{name}\"}}")).collect();
    if !source.append(LIST, &added) {
        source.set(LIST, &format!("[{}]", added.join(",")));
    }
}
