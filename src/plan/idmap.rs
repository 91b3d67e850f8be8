//! The owners that the files of a mount are shown with: the mappings of `idmap` and `ridmap`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::{IdMapping, Mount};

/// The owners that a mount shows: `None` means those of the container's user namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub mappings: Option<Mappings>,
    pub recursive: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings {
    pub uid: Vec<IdMapping>,
    pub gid: Vec<IdMapping>,
}

/// The parts of the container's user namespace that a mapping may refer to.
#[derive(Clone, Copy, Default)]
pub struct UserNamespace<'a> {
    /// The container has or joins one.
    pub exists: bool,
    pub uid: &'a [IdMapping],
    pub gid: &'a [IdMapping],
}

/// The option as engines write it: `idmap` or `ridmap`, with or without mappings.
#[derive(Debug, PartialEq)]
pub struct Request {
    pub recursive: bool,
    /// `uids=0-1000-10#10-2000-10;gids=0-1000-10`: triples of the file's id, the id shown and the count; with `@` in
    /// front, the second is one of the container's (as crun and Podman have it).
    pub mappings: Option<String>,
}

impl Request {
    pub fn parse(option: &str) -> Option<Self> {
        let (word, mappings) = match option.split_once('=') {
            Some((word, mappings)) => (word, Some(mappings.to_owned()).filter(|text| !text.is_empty())),
            None => (option, None),
        };
        let recursive = match word {
            "idmap" => false,
            "ridmap" => true,
            _ => return None,
        };
        Some(Self { recursive, mappings })
    }
}

pub fn plan(pointer: &str, mount: &Mount, request: Option<&Request>, userns: UserNamespace) -> Result<Option<IdMap>> {
    const BOTH: &str = "id-mapped mounts must have both uid and gid mappings specified";
    let recursive = request.is_some_and(|request| request.recursive);
    let mappings = match request.and_then(|request| request.mappings.as_deref()) {
        Some(text) => {
            parse(text, userns).map_err(|message| Error::config(format_args!("{pointer}/options"), message))?
        }
        None => Mappings { uid: mount.uid_mappings.clone(), gid: mount.gid_mappings.clone() },
    };
    match (mappings.uid.is_empty(), mappings.gid.is_empty()) {
        (false, false) => Ok(Some(IdMap { mappings: Some(mappings), recursive })),
        (true, true) if request.is_none() => Ok(None),
        (true, true) if userns.exists => Ok(Some(IdMap { mappings: None, recursive })),
        (true, true) => Err(Error::config(format_args!("{pointer}/options"), BOTH)
            .with_hint("without a user namespace there is no mapping that could be implied")),
        (true, false) => Err(Error::config(format_args!("{pointer}/uidMappings"), BOTH)),
        (false, true) => Err(Error::config(format_args!("{pointer}/gidMappings"), BOTH)),
    }
}

/// The error of a mount that cannot have its own mapping, which its fields or its options name.
pub fn refusal(pointer: &str, mount: &Mount, message: &str) -> Error {
    let field = if mount.uid_mappings.is_empty() { "options" } else { "uidMappings" };
    Error::config(format_args!("{pointer}/{field}"), message)
}

fn parse(text: &str, userns: UserNamespace) -> Result<Mappings, String> {
    let mut mappings = Mappings { uid: Vec::new(), gid: Vec::new() };
    for part in text.split(';') {
        let (list, triples, container) = match part.split_once('=') {
            Some(("uids", triples)) => (&mut mappings.uid, triples, userns.uid),
            Some(("gids", triples)) => (&mut mappings.gid, triples, userns.gid),
            _ => return Err(format!("invalid mapping specified {part:?}")),
        };
        for text in triples.split('#').filter(|text| !text.is_empty()) {
            list.push(triple(text, container)?);
        }
    }
    Ok(mappings)
}

fn triple(text: &str, container: &[IdMapping]) -> Result<IdMapping, String> {
    let wrong = || format!("invalid mapping specified {text:?}");
    let (numbers, relative) = match text.strip_prefix('@') {
        Some(numbers) => (numbers, true),
        None => (text, false),
    };
    let numbers: Vec<u32> = numbers.split('-').map(|n| n.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    let [container_id, mut host_id, size] = numbers[..] else { return Err(wrong()) };
    if relative {
        host_id = container
            .iter()
            .find_map(|m| m.to_host(host_id))
            .ok_or_else(|| format!("could not find a user namespace mapping for the relative mapping {text:?}"))?;
    }
    Ok(IdMapping { container_id, host_id, size })
}

/// The text that the kernel takes for a map (user_namespaces(7)).
pub fn table(mappings: &[IdMapping]) -> String {
    let line = |IdMapping { container_id, host_id, size }: &IdMapping| format!("{container_id} {host_id} {size}\n");
    mappings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: [IdMapping; 1] = [IdMapping { container_id: 10, host_id: 5000, size: 5 }];

    fn mapped(option: &str, exists: bool) -> Result<Option<IdMap>> {
        let userns = UserNamespace { exists, uid: &MAP, gid: &[] };
        plan("/m", &Mount::default(), Request::parse(option).as_ref(), userns)
    }

    #[test]
    fn mappings_within_the_option() {
        let id = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let map = mapped("ridmap=uids=0-1-10#@20-12-1;gids=3-4-5", false).unwrap().unwrap();
        assert!(map.recursive);
        let expected = Mappings { uid: vec![id(0, 1, 10), id(20, 5002, 1)], gid: vec![id(3, 4, 5)] };
        assert_eq!(map.mappings, Some(expected));
        for wrong in ["uids=0-1", "uids=0-1-2-3", "uids=a-1-1", "ids=0-1-1", "uids=@0-15-1", "uids=0-1-1"] {
            assert!(mapped(&format!("idmap={wrong}"), false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mappings_that_are_implied() {
        assert_eq!(mapped("idmap", true).unwrap(), Some(IdMap { mappings: None, recursive: false }));
        assert!(mapped("idmap", false).is_err());
        assert_eq!(mapped("nothing", true).unwrap(), None);
    }
}
