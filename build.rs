//! Builds init's images, which the library embeds, and tells the binary from which commit and for which target it is
//! built.
//!
//! Only a release build asks git: a development build would otherwise be compiled again after every commit.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    images();
    commit();
}

/// Builds `src/image.rs` by a cargo of its own: it is a static program whatever the library becomes part of, has its
/// own profile, and on most machines its own standard library. Everything is made below `OUT_DIR`.
///
/// A release has a second image for exec alone, which is half the size. A development build would have
/// to compile twice for it.
fn images() {
    let source = PathBuf::from(text("CARGO_MANIFEST_DIR"));
    let package = PathBuf::from(text("OUT_DIR")).join("init");
    std::fs::create_dir_all(&package).expect("directory of init's image");
    for file in ["Cargo.lock", "src/image.toml", "src/image.ld"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let manifest = std::fs::read_to_string(source.join("src/image.toml")).expect("src/image.toml");
    let manifest = if own_std() { &manifest } else { manifest.split("[lib]").next().expect("the part before it") };
    write(&package.join("Cargo.toml"), manifest);
    let (sources, link) = (source.join("src"), package.join("src"));
    if std::fs::read_link(&link).ok().as_ref() != Some(&sources) {
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&sources, &link).expect("link to src");
    }
    // The versions that this repository is tested with; or those that a user of the library has fetched.
    let lock = package.join("Cargo.lock");
    let _ = std::fs::copy(source.join("Cargo.lock"), &lock);
    let mut built = build(&package, &[]);
    if built.as_ref().is_err_and(|complaint| complaint.contains("--offline")) {
        let _ = std::fs::remove_file(&lock);
        built = build(&package, &[]);
    }
    let image = built.unwrap_or_else(|complaint| panic!("init's image cannot be built:\n{complaint}"));
    let dependencies = std::fs::read_to_string(image.with_extension("d")).expect("berth-init.d");
    // The first word is what depends on the others.
    for file in dependencies.split_whitespace().skip(1).filter_map(|file| Path::new(file).strip_prefix(&package).ok()) {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    // Each build writes to the same place.
    let keep = |image: &Path, name: &str| {
        let kept = package.join(name);
        std::fs::copy(image, &kept).expect("copy of init's image");
        kept
    };
    let whole = keep(&image, "image");
    let exec = if profile() == "release" {
        let image = build(&package, &["exec-only"]);
        keep(&image.unwrap_or_else(|complaint| panic!("exec's image cannot be built:\n{complaint}")), "image-exec")
    } else {
        whole.clone()
    };
    println!("cargo::rustc-env=BERTH_INIT_IMAGE={}", whole.display());
    println!("cargo::rustc-env=BERTH_EXEC_IMAGE={}", exec.display());
}

/// Returns the built program; the error is what cargo says. What the image depends on has been fetched for the library.
fn build(package: &Path, features: &[&str]) -> Result<PathBuf, String> {
    let target = package.join("target");
    let mut cargo = Command::new(text("CARGO"));
    cargo.args(["build", "--offline", "--manifest-path"]).arg(package.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(&target).args(["--target", &text("TARGET")]);
    if profile() == "release" {
        cargo.arg("--release");
    }
    let features: Vec<_> = features.iter().copied().chain((!own_std()).then_some("rusts-std")).collect();
    cargo.arg("--features").arg(features.join(","));
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        cargo.env(format!("CARGO_TARGET_{}_LINKER", text("TARGET").to_uppercase().replace('-', "_")), linker);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags());
    // Clippy, for one, which has the sources from the library.
    cargo.env_remove("RUSTC_WORKSPACE_WRAPPER");
    let output = cargo.output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(target.join(text("TARGET")).join(profile()).join("berth-init"))
}

/// Whether `src/sys/std` knows how to make a system call here.
fn own_std() -> bool {
    ["aarch64", "x86_64"].contains(&text("CARGO_CFG_TARGET_ARCH").as_str())
}

/// Of the caller's flags only those that do not change what the program is: it is static, and has a fixed address,
/// since every page that is relocated would be memory of each container that waits for its start.
fn flags() -> String {
    let given = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let script = format!("-Clink-arg=-Wl,--no-eh-frame-hdr,-T,{}/src/image.ld", text("CARGO_MANIFEST_DIR"));
    let mut flags: Vec<_> = given.split('\x1f').filter(|flag| flag.starts_with("--remap-path-prefix=")).collect();
    flags.extend(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"]);
    if own_std() {
        flags.extend(["-Clink-arg=-nostartfiles", "-Cforce-unwind-tables=no", &script]);
        // For musl, Rust brings a start of its own, which -nostartfiles does not leave out.
        if text("CARGO_CFG_TARGET_ENV") == "musl" {
            flags.push("-Clink-self-contained=no");
        }
    }
    flags.join("\x1f")
}

fn profile() -> &'static str {
    if text("PROFILE") == "release" { "release" } else { "debug" }
}

/// Leaves the file as it is where nothing changes, so that nothing is built again.
fn write(path: &Path, content: &str) {
    if std::fs::read_to_string(path).ok().as_deref() != Some(content) {
        std::fs::write(path, content).expect("write below OUT_DIR");
    }
}

fn text(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn commit() {
    println!("cargo::rerun-if-env-changed=BERTH_COMMIT");
    let commit = std::env::var("BERTH_COMMIT").ok().filter(|c| !c.is_empty()).or_else(|| {
        if profile() != "release" {
            return None;
        }
        if let Some(head) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
            println!("cargo::rerun-if-changed={head}");
        }
        git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
    });
    println!("cargo::rustc-env=BERTH_TARGET={}", text("TARGET"));
    println!("cargo::rustc-env=BERTH_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// `None` wherever there is no git or no repository, as in a source archive.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
