//! The engines that are installed, and whether their configuration names berth. It is read only.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde_json::Value;

use super::{Report, program};
use crate::files;

/// More than any such file has.
const MAX_CONFIG: usize = 1 << 20;

const CURE: &str = "docs/engines.md has the lines";

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

/// In a line that is no comment.
fn names_berth(text: &[u8]) -> bool {
    String::from_utf8_lossy(text).lines().any(|line| line.split('#').next().is_some_and(|line| line.contains("berth")))
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
            return report.warning(
                "engines",
                format!("Docker: {}: {e}: dockerd does not start", file.display()),
                "mend it",
            );
        }
    };
    let runtimes = config["runtimes"].as_object().into_iter().flatten();
    let ours: Vec<_> = runtimes.filter(|(_, runtime)| runtime.to_string().contains("berth")).collect();
    let default = config["default-runtime"].as_str().unwrap_or("runc");
    for (name, runtime) in &ours {
        match runtime["path"].as_str() {
            Some(path) if path.starts_with('/') && !Path::new(path).exists() => {
                let found = format!("Docker: the runtime {name} is {path:?}, which does not exist");
                report.warning("engines", found, "install berth there: containers of that runtime cannot start");
            }
            _ => report.ok("engines", format!("Docker: has the runtime {name}; the default is {default}")),
        }
    }
    if ours.is_empty() {
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
        assert_eq!(judge(r#"{"runtimes": {"b": {"runtimeType": "io.containerd.berth.v2"}}}"#)[0].0, Level::Ok);
        assert_eq!(judge("{")[0].0, Level::Warning);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
