//! The engines that are installed, and whether their configuration names berth. It is read only.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde_json::Value;

use super::{Report, program, why_not};
use crate::files;

/// More than any such file has.
const MAX_CONFIG: usize = 1 << 20;

/// Under this name, containerd finds berth as the shim.
const SHIM: &str = "containerd-shim-berth-v2";

const CURE: &str = "docs/engines.md in share/doc/berth has the lines";

/// An engine that is configured by TOML, and the files and directories of its configuration.
const BY_TOML: [(&str, &str, &[&str]); 3] = [
    ("containerd", "containerd", &["/etc/containerd/config.toml", "/etc/containerd/conf.d"]),
    ("CRI-O", "crio", &["/etc/crio/crio.conf", "/etc/crio/crio.conf.d"]),
    (
        "Podman",
        "podman",
        &[
            "/usr/share/containers/containers.conf",
            "/etc/containers/containers.conf",
            "/etc/containers/containers.conf.d",
        ],
    ),
];

pub fn examine(report: &mut Report) {
    if program("dockerd").is_some() {
        docker(report, Path::new("/etc/docker/daemon.json"));
    }
    for (name, daemon, places) in BY_TOML {
        if program(daemon).is_none() {
            continue;
        }
        let mut files: Vec<PathBuf> = places.iter().flat_map(|place| files_of(Path::new(place))).collect();
        if let (true, Some(home)) = (name == "Podman", std::env::var_os("HOME")) {
            files.push(Path::new(&home).join(".config/containers/containers.conf"));
        }
        match files.iter().find(|file| files::read_own(file, MAX_CONFIG).is_ok_and(|text| names_berth(&text))) {
            Some(file) => report.ok("engines", format!("{name}: {} names berth", file.display())),
            None => report.add(super::Level::Ok, "engines", format!("{name} does not use berth"), Some(CURE.into())),
        }
    }
}

/// A file itself, or the files of a directory.
fn files_of(place: &Path) -> Vec<PathBuf> {
    match std::fs::read_dir(place) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![place.to_owned()],
    }
}

/// In the value of a key that chooses a runtime, or in the name of a table, outside of comments.
fn names_berth(text: &[u8]) -> bool {
    const KEYS: [&str; 6] =
        ["BinaryName", "runtime", "runtime_type", "runtime_path", "default_runtime", "default_runtime_name"];
    String::from_utf8_lossy(text).lines().filter_map(|line| line.split('#').next()).any(|line| {
        let key = line.split_once('=').map(|(key, _)| key.trim());
        line.contains("berth") && key.map_or(line.trim().starts_with('['), |key| KEYS.contains(&key) || key == "berth")
    })
}

fn docker(report: &mut Report, file: &Path) {
    let text = match files::read_own(file, MAX_CONFIG) {
        Ok(text) => text,
        Err(e) if e.errno() == Some(Errno::NOENT) => Vec::from(b"{}"),
        Err(e) => return report.unseen("engines", format!("Docker: {e}")),
    };
    let config: Value = match serde_json::from_slice(&text) {
        Ok(config) => config,
        Err(e) => {
            return report.warning("engines", format!("Docker: {}: {e}: dockerd does not start", file.display()), CURE);
        }
    };
    if !config.is_object() {
        return report.warning(
            "engines",
            format!("Docker: {}: is no object: dockerd does not start", file.display()),
            CURE,
        );
    }
    let runtimes = config["runtimes"].as_object();
    let ours = runtimes.into_iter().flatten().filter(|(_, runtime)| runtime.to_string().contains("berth"));
    let default = config["default-runtime"].as_str().unwrap_or("runc");
    let mut found = false;
    for (name, runtime) in ours {
        found = true;
        let missing = match (runtime["path"].as_str(), runtime["runtimeType"].as_str()) {
            (Some(path), _) if path.starts_with('/') && !Path::new(path).is_file() => format!("{path:?}"),
            (_, Some("io.containerd.berth.v2")) if program(SHIM).is_none() => why_not(SHIM),
            _ => {
                report.ok("engines", format!("Docker: has the runtime {name}; the default is {default}"));
                continue;
            }
        };
        let message = format!("Docker: the program of the runtime {name} is missing: {missing}");
        report.warning("engines", message, "install it there: containers of that runtime cannot start");
    }
    // Docker has these two, and takes a name with a dot for that of a shim.
    let known = ["runc", "io.containerd.runc.v2"].contains(&default) || default.contains('.');
    if !known && runtimes.is_none_or(|all| !all.contains_key(default)) {
        let message =
            format!("Docker: the default runtime {default:?} is not among the runtimes: dockerd does not start");
        report.warning("engines", message, CURE);
    } else if !found {
        report.add(super::Level::Ok, "engines", "Docker does not use berth", Some(CURE.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_comment_is_no_configuration() {
        assert!(names_berth(b"[runtimes]\n  BinaryName = '/usr/bin/berth' # ours\n"));
        assert!(names_berth(b"[engine.runtimes]\nberth = [\"/usr/bin/berth\"]\n"));
        assert!(!names_berth(b"root = '/var/lib/containerd-berth'\n"));
        assert!(!names_berth(b"# BinaryName = '/usr/bin/berth'\nBinaryName = 'runc' # not berth\n"));
    }

    #[test]
    fn runtimes_of_docker() {
        let dir = std::env::temp_dir().join(format!("berth-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("daemon.json");
        let judge = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let mut report = Report::default();
            docker(&mut report, &file);
            report.0.into_iter().map(|finding| (finding.level, finding.found)).collect::<Vec<_>>()
        };
        assert_eq!(judge("{}")[0].1, "Docker does not use berth");
        let here = std::env::current_exe().unwrap();
        let found = judge(&format!(r#"{{"runtimes": {{"berth": {{"path": {here:?}}}}}, "default-runtime": "berth"}}"#));
        assert_eq!(found, [(Level::Ok, "Docker: has the runtime berth; the default is berth".into())]);
        assert_eq!(judge(r#"{"runtimes": {"b": {"path": "/nowhere/berth"}}}"#)[0].0, Level::Warning);
        assert_eq!(judge(r#"{"default-runtime": "berth"}"#)[0].0, Level::Warning);
        assert_eq!(judge(r#"{"default-runtime": "io.containerd.kata.v2"}"#)[0].0, Level::Ok);
        for wrong in ["{", "[]"] {
            assert_eq!(judge(wrong)[0].0, Level::Warning);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
