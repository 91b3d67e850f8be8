//! Tells the binary which commit it was built from.
//!
//! Only a release build asks git: a development build would otherwise be compiled again after every commit.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=BERTH_COMMIT");
    let commit = std::env::var("BERTH_COMMIT").ok().filter(|c| !c.is_empty()).or_else(|| {
        if std::env::var("PROFILE").as_deref() != Ok("release") {
            return None;
        }
        if let Some(head) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
            println!("cargo::rerun-if-changed={head}");
        }
        git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
    });
    println!("cargo::rustc-env=BERTH_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// `None` wherever there is no git or no repository, as in a source archive.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
