//! `mounts` of `config.json`: option strings become attributes, superblock parameters and propagation.

mod attrs;
pub mod cgroup;
mod options;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::attrs::{Attrs, HARMLESS, Propagation, PropagationChange, attr};
use self::cgroup::CgroupMount;
use self::options::Options;
pub use self::options::{KNOWN_OPTIONS, Parameter};
use super::idmap::{self, IdMap, UserNamespace};
use super::path::leads_up;
use crate::error::{Error, Result};
use crate::spec::Mount;

/// Where the path of a bind mount's source begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindSource {
    /// On the host's side of the mount namespace.
    Host(String),
    /// Below the root filesystem, among the mounts made before this one. The image controls it, so it is resolved
    /// inside the container's root.
    Rootfs(String),
}

/// Symbolic links that a bind mount does not follow, as in crun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// If the source is a link, the same link is made at the destination, and nothing is mounted.
    pub copy: bool,
    /// If the source is a link, the link itself is mounted.
    pub source: bool,
    /// If the destination is a link, the link itself is covered.
    pub destination: bool,
}

/// A filesystem to be made by `fsopen(2)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    pub kind: String,
    pub source: String,
    /// Parameters of the superblock.
    pub data: Vec<Parameter>,
    /// Copy the covered files into the new tmpfs.
    pub copy_up: bool,
    /// A tmpfs gets the mode of the directory that it covers, unless `mode=` was given.
    pub inherit_mode: bool,
    /// Idmapped: the runtime makes the mount, as it gives other owners to nothing that comes from init. A mount made in
    /// a user namespace would have its owners already.
    pub by_runtime: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    Bind {
        source: BindSource,
        recursive: bool,
    },
    Filesystem(Filesystem),
    /// `remount`: changes an existing mount.
    Remount {
        bind: bool,
        data: Vec<Parameter>,
        /// In a running container: the id of the mount, unless an earlier entry of the same list makes it.
        target: Option<u64>,
    },
    Cgroup(CgroupMount),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// The index in `mounts`, for messages.
    pub index: u32,
    /// As configured, for messages.
    pub source: String,
    /// As configured; resolved inside the container's root.
    pub destination: String,
    pub kind: MountKind,
    /// The attributes of a new filesystem, or the change of those of a bind mount.
    pub attrs: Attrs,
    /// The attributes that options name. If the flags of a source are locked, these must not be lost silently.
    pub cleared: u64,
    /// The options name an access-time mode.
    pub atime: bool,
    /// Applied to the mount and to all mounts below it.
    pub recursive: Attrs,
    pub propagation: Vec<PropagationChange>,
    pub idmap: Option<IdMap>,
    pub links: Links,
    /// Made read-only only at the end: `tmpfs` and `/dev` are filled first.
    pub late_readonly: bool,
}

impl MountPlan {
    /// For errors. The words are runc's, which tests and people look for.
    pub fn describe(&self) -> String {
        /// Longer than anyone would read. Cutting the message must not cut off the index.
        const ENOUGH: usize = 500;
        let shown = |name: &str| match name.len() > ENOUGH {
            true => format!("{:?}...", &name[..name.floor_char_boundary(ENOUGH)]),
            false => format!("{name:?}"),
        };
        let (source, destination) = (shown(&self.source), shown(&self.destination));
        format!("error mounting {source} to rootfs at {destination}: /mounts/{}", self.index)
    }

    /// The plan for an existing mount that is used in place of a new filesystem: it keeps the attributes that it has,
    /// and gets those that options name.
    pub fn in_place_of_new(&self) -> Self {
        let clear = if self.atime { attr::ATIME | attr::NODIRATIME } else { 0 };
        Self { attrs: Attrs { set: self.attrs.set, clear }, ..self.clone() }
    }

    /// Takes read-only out of the attributes that a mount has from the beginning, if it is filled first.
    fn make_readonly_late(&mut self) {
        self.late_readonly = self.is_readonly();
        self.attrs.set &= !attr::RDONLY;
        self.recursive.set &= !attr::RDONLY;
    }

    /// What recursive options say comes last.
    fn is_readonly(&self) -> bool {
        let set = (self.attrs.set & !self.recursive.clear) | self.recursive.set;
        set & attr::RDONLY != 0
    }

    /// Whether this makes a mount, which has an id.
    pub fn is_made(&self) -> bool {
        matches!(self.kind, MountKind::Bind { .. } | MountKind::Filesystem(_))
    }

    /// Whether init may ask the runtime to open this mount.
    pub fn may_be_asked_for(&self) -> bool {
        match &self.kind {
            MountKind::Bind { source: BindSource::Host(_), .. } => true,
            MountKind::Bind { source: BindSource::Rootfs(_), .. } => self.idmap.is_some(),
            MountKind::Filesystem(filesystem) => filesystem.by_runtime,
            MountKind::Remount { .. } | MountKind::Cgroup(_) => false,
        }
    }
}

/// Facts that the plan of one mount needs.
pub struct Context<'a> {
    pub bundle: &'a Path,
    /// Absolute.
    pub rootfs: &'a Path,
    pub userns: UserNamespace<'a>,
    pub label: &'a str,
    /// The mount option for the label.
    pub label_option: &'a str,
}

pub fn plan(index: usize, mount: &Mount, context: &Context, warnings: &mut Vec<String>) -> Result<MountPlan> {
    let pointer = format!("/mounts/{index}");
    refuse_nul(&pointer, mount)?;
    let options = Options::parse(&mount.options);
    let idmap = idmap::plan(&pointer, mount, options.idmap.as_ref(), context.userns)?;
    let mut plan = MountPlan {
        index: index.try_into().map_err(|_| Error::config(&pointer, "too many mounts"))?,
        source: mount.source.clone(),
        destination: strip_rootfs(&mount.destination, context.rootfs),
        kind: MountKind::Remount { bind: false, data: Vec::new(), target: None },
        attrs: Attrs { set: options.set | options.atime.mode(), clear: 0 },
        cleared: options.cleared | options.atime.cleared,
        atime: options.atime.named(),
        recursive: options.recursive,
        propagation: options.propagation.clone(),
        idmap,
        links: options.links,
        late_readonly: false,
    };
    if options.bind.is_some() || options.remount {
        plan.attrs = changed_attrs(&options);
    }
    if options.links != Links::default() && (options.bind.is_none() || options.remount) {
        let message = "copy-symlink, src-nofollow and dest-nofollow are options of bind mounts";
        return Err(Error::config(format_args!("{pointer}/options"), message));
    }
    if options.copy_up && (mount.kind != "tmpfs" || options.bind.is_some() || options.remount) {
        return Err(Error::config(
            format_args!("{pointer}/options"),
            "tmpcopyup works only on a new mount of the type tmpfs",
        ));
    }
    if options.bind.is_some() {
        check_bind_data(&pointer, &options.data, warnings)?;
    }
    if options.remount && plan.idmap.is_some() {
        return Err(idmap::refusal(&pointer, mount, "a remount does not change the owners that a mount shows"));
    }
    plan.kind = match options.bind {
        bind if options.remount => MountKind::Remount {
            bind: bind.is_some(),
            data: superblock_data(&options, mount, options.set & attr::RDONLY != 0, ("", "")),
            target: None,
        },
        Some(recursive) => MountKind::Bind { source: bind_source(mount, context), recursive },
        None => filesystem(&pointer, mount, &options, context, &mut plan)?,
    };
    Ok(plan)
}

/// A bind mount keeps the options of its filesystem. Parameters are ignored, as by mount(8). But a single word may be a
/// misspelt flag, and a protection without effect must not go unnoticed.
fn check_bind_data(pointer: &str, data: &[Parameter], warnings: &mut Vec<String>) -> Result<()> {
    for Parameter { key, value, option } in data {
        if value.is_none() {
            let index = option.unwrap_or_default();
            let message = format_args!(
                "{key:?} is no mount option: bind mounts cannot have any filesystem-specific options applied"
            );
            return Err(Error::config(format_args!("{pointer}/options/{index}"), message));
        }
        warnings.push(format!("{pointer}/options: a bind mount ignores filesystem-specific options: {key}"));
    }
    Ok(())
}

fn refuse_nul(pointer: &str, mount: &Mount) -> Result<()> {
    let fields = [("destination", &mount.destination), ("source", &mount.source), ("type", &mount.kind)];
    for (name, value) in fields.into_iter().chain(mount.options.iter().map(|option| ("options", option))) {
        if value.contains('\0') {
            return Err(Error::config(format_args!("{pointer}/{name}"), "contains a null byte"));
        }
    }
    if mount.destination.is_empty() {
        return Err(Error::config(format_args!("{pointer}/destination"), "is empty"));
    }
    Ok(())
}

/// Without options, a bind mount keeps the flags of its source. With options, it has the flags that they name. Access
/// times are kept unless their mode is named.
fn changed_attrs(options: &Options) -> Attrs {
    if !options.any_flag {
        return Attrs::default();
    }
    let mut attrs = Attrs { set: options.set, clear: attr::CLEARABLE & !options.set };
    if options.atime.named() {
        attrs.set |= options.atime.mode();
        attrs.clear |= attr::ATIME | attr::NODIRATIME;
    }
    attrs
}

fn bind_source(mount: &Mount, context: &Context) -> BindSource {
    let path = context.bundle.join(&mount.source);
    match path.strip_prefix(context.rootfs) {
        Ok(inside) if !leads_up(inside) && !inside.as_os_str().is_empty() => {
            BindSource::Rootfs(inside.to_string_lossy().into_owned())
        }
        _ => BindSource::Host(path.to_string_lossy().into_owned()),
    }
}

/// Some engines write destinations as paths of the host, with the path of the root filesystem in front.
fn strip_rootfs(destination: &str, rootfs: &Path) -> String {
    match Path::new(destination).strip_prefix(rootfs) {
        Ok(inside) if rootfs != Path::new("/") => format!("/{}", inside.display()),
        _ => destination.to_owned(),
    }
}

/// Flags and parameters of the superblock, flags first.
fn superblock_data(options: &Options, mount: &Mount, readonly: bool, (option, label): (&str, &str)) -> Vec<Parameter> {
    // `silent` only keeps the kernel's log quiet, and has no parameter.
    let flags = options.superblock.iter().filter(|&&flag| flag != "silent").map(|flag| Parameter::word(flag));
    let mut data: Vec<_> = flags.chain(options.data.iter().cloned()).collect();
    // The superblock is read-only too, as some devices demand. Exceptions: filesystems in which files are made first,
    // and control groups, whose superblock the host may share later.
    if readonly && !["cgroup", "cgroup2"].contains(&&*mount.kind) {
        data.insert(0, Parameter::word("ro"));
    }
    if !label.is_empty() && !["proc", "sysfs", "mqueue"].contains(&&*mount.kind) {
        data.push(Parameter::new(option, label));
    }
    data
}

fn filesystem(
    pointer: &str,
    mount: &Mount,
    options: &Options,
    context: &Context,
    plan: &mut MountPlan,
) -> Result<MountKind> {
    if mount.kind.is_empty() || mount.kind == "bind" || mount.kind == "none" {
        let message = match mount.kind.as_str() {
            "" => "a mount without a type is not a bind mount either".to_owned(),
            kind => format!("the type {kind:?} alone makes no bind mount"),
        };
        return Err(Error::config(format_args!("{pointer}/type"), message)
            .with_hint("a bind mount has \"bind\" or \"rbind\" among its options"));
    }
    if ["tmpfs", "ramfs"].contains(&&*mount.kind) {
        plan.make_readonly_late();
    }
    let tmpfs = mount.kind == "tmpfs";
    Ok(MountKind::Filesystem(Filesystem {
        kind: mount.kind.clone(),
        source: mount.source.clone(),
        data: superblock_data(
            options,
            mount,
            plan.attrs.set & attr::RDONLY != 0,
            (context.label_option, context.label),
        ),
        copy_up: options.copy_up,
        by_runtime: plan.idmap.is_some(),
        inherit_mode: tmpfs && !options.data.iter().any(|parameter| parameter.key == "mode"),
    }))
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A bind mount of a directory of the host.
    pub fn bind(source: &str) -> MountPlan {
        let mount =
            Mount { destination: "/x".into(), source: source.into(), options: vec!["bind".into()], ..Mount::default() };
        let context = Context {
            bundle: Path::new("/"),
            rootfs: Path::new("/nonexistent"),
            userns: idmap::UserNamespace::default(),
            label: "",
            label_option: "context",
        };
        plan(0, &mount, &context, &mut Vec::new()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(kind: &str, options: &[&str]) -> Result<MountPlan> {
        planned_at(kind, "/srv", "/dst", options)
    }

    fn planned_at(kind: &str, source: &str, destination: &str, options: &[&str]) -> Result<MountPlan> {
        let mount = Mount {
            destination: destination.to_owned(),
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|&o| o.to_owned()).collect(),
            ..Mount::default()
        };
        let context = Context {
            bundle: Path::new("/b"),
            rootfs: Path::new("/b/rootfs"),
            userns: UserNamespace::default(),
            label: "",
            label_option: "context",
        };
        plan(0, &mount, &context, &mut Vec::new())
    }

    #[test]
    fn a_bind_mount_ignores_parameters_of_filesystems() {
        let mut warnings = Vec::new();
        let data = [Parameter::new("mode", "755")];
        check_bind_data("/mounts/3", &data, &mut warnings).unwrap();
        assert_eq!(warnings, ["/mounts/3/options: a bind mount ignores filesystem-specific options: mode"]);
    }

    #[test]
    fn a_bind_mount_changes_only_what_its_options_say() {
        use attr::*;
        let all = CLEARABLE;
        for (options, set, clear) in [
            (&["bind"][..], 0, 0),
            (&["rbind", "rprivate"], 0, 0),
            (&["bind", "ro"], RDONLY, all & !RDONLY),
            (&["bind", "rw"], 0, all),
            (&["bind", "ro", "rw"], 0, all),
            (&["bind", "dev"], 0, all),
            (&["bind", "nosuid", "nodev", "rprivate"], NOSUID | NODEV, all & !(NOSUID | NODEV)),
            (&["bind", "silent"], 0, all),
            // Words that only undo an access-time mode leave access times as they are.
            (&["bind", "atime"], 0, all),
            (&["bind", "norelatime"], 0, all),
            (&["bind", "nostrictatime"], 0, all),
            (&["bind", "nosymfollow"], NOSYMFOLLOW, all & !NOSYMFOLLOW),
            (&["bind", "nosymfollow", "symfollow"], 0, all),
            (&["bind", "relatime"], 0, all | ATIME | NODIRATIME),
            (&["bind", "noatime"], NOATIME, all | ATIME | NODIRATIME),
            (&["bind", "nodiratime"], NODIRATIME, all | ATIME | NODIRATIME),
            (&["bind", "nodiratime", "strictatime"], NODIRATIME | STRICTATIME, all | ATIME | NODIRATIME),
            (&["bind", "noatime", "strictatime"], STRICTATIME, all | ATIME | NODIRATIME),
        ] {
            assert_eq!(planned("none", options).unwrap().attrs, Attrs { set, clear }, "{options:?}");
        }
    }

    #[test]
    fn recursive_options() {
        use attr::*;
        for (options, set, clear) in [
            (&["rbind", "rro"][..], RDONLY, 0),
            (&["rbind", "rro", "rrw", "rnosuid"], NOSUID, RDONLY),
            (&["rbind", "rnoatime"], NOATIME, ATIME),
            (&["rbind", "ratime"], 0, ATIME),
            (&["rbind", "rrelatime"], 0, ATIME),
            (&["rbind", "rnorelatime"], 0, ATIME),
            (&["rbind", "rstrictatime"], STRICTATIME, ATIME),
            (&["rbind", "rstrictatime", "rnostrictatime"], 0, ATIME | STRICTATIME),
            (&["rbind", "rnodiratime"], NODIRATIME, 0),
        ] {
            assert_eq!(planned("none", options).unwrap().recursive, Attrs { set, clear }, "{options:?}");
        }
        assert_eq!(planned("none", &["rbind", "rro"]).unwrap().attrs, Attrs::default());
    }

    #[test]
    fn every_propagation_is_known() {
        use Propagation::*;
        for (word, kind) in [("private", Private), ("slave", Slave), ("shared", Shared), ("unbindable", Unbindable)] {
            for (word, recursive) in [(word.to_owned(), false), (format!("r{word}"), true)] {
                let plan = planned("none", &["rbind", &word]).unwrap();
                assert_eq!(plan.propagation, [PropagationChange { kind, recursive }], "{word}");
            }
        }
        assert_eq!(PropagationChange::parse("rsharedish"), None);
    }

    #[test]
    fn a_filesystem_has_attributes_and_parameters() {
        let plan =
            planned("tmpfs", &["nosuid", "strictatime", "mode=755", "size=64k,huge=never", "sync", "ro"]).unwrap();
        assert_eq!((plan.attrs.set, plan.late_readonly), (attr::NOSUID | attr::STRICTATIME, true));
        let MountKind::Filesystem(filesystem) = plan.kind else { panic!() };
        let data: Vec<_> = filesystem.data.iter().map(Parameter::to_string).collect();
        assert_eq!((data.join(" ").as_str(), filesystem.inherit_mode), ("sync mode=755 size=64k huge=never", false));
        let MountKind::Filesystem(ext4) = planned("ext4", &["ro"]).unwrap().kind else { panic!() };
        assert_eq!(ext4.data, [Parameter::word("ro")]);
        let MountKind::Filesystem(cgroup) = planned("cgroup2", &["ro"]).unwrap().kind else { panic!() };
        assert_eq!(cgroup.data, []);
    }

    #[test]
    fn sources_and_destinations() {
        let source = |path| match planned_at("", path, "/d", &["bind"]).unwrap().kind {
            MountKind::Bind { source, .. } => source,
            other => panic!("{other:?}"),
        };
        assert_eq!(source("/srv/x"), BindSource::Host("/srv/x".into()));
        assert_eq!(source("data"), BindSource::Host("/b/data".into()));
        assert_eq!(source("rootfs/mnt"), BindSource::Rootfs("mnt".into()));
        assert_eq!(source("/b/rootfs/../x"), BindSource::Host("/b/rootfs/../x".into()));
        assert_eq!(source("/b/rootfs2"), BindSource::Host("/b/rootfs2".into()));
        for (written, meant) in [("/d", "/d"), ("d/e", "d/e"), ("/b/rootfs/d", "/d"), ("/b/rootfs2", "/b/rootfs2")] {
            assert_eq!(planned_at("", "/s", written, &["bind"]).unwrap().destination, meant);
        }
    }

    #[test]
    fn wrong_mounts_are_named() {
        for (kind, options, pointer) in [
            ("bind", &["bind", "nosiud"][..], "/mounts/0/options/1"),
            ("bind", &["ro"], "/mounts/0/type"),
            ("", &[], "/mounts/0/type"),
            ("bind", &["bind", "idmap"], "/mounts/0/options"),
            ("tmp\0fs", &[], "/mounts/0/type"),
        ] {
            let error = planned(kind, options).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{pointer}: ")), "{error}");
        }
    }
}
