//! Writes the manual pages into the directory that is given: `berth.8`, and one for each command.

use std::path::Path;

use clap_mangen::Man;

fn main() -> std::io::Result<()> {
    let dir = std::env::args_os().nth(1).expect("a directory");
    let berth = berth::cli::definition();
    for command in berth.get_subcommands() {
        let name = format!("berth-{}", command.get_name());
        let bin_name = format!("berth {}", command.get_name());
        // clap keeps names for as long as the program runs.
        let command = command.clone().name(&*name.clone().leak()).bin_name(bin_name);
        write(Path::new(&dir), &name, command)?;
    }
    write(Path::new(&dir), "berth", berth)
}

fn write(dir: &Path, name: &str, command: clap::Command) -> std::io::Result<()> {
    let mut page = Vec::new();
    let command = command.version(env!("CARGO_PKG_VERSION")).disable_version_flag(true);
    Man::new(command).section("8").manual("berth").render(&mut page)?;
    std::fs::write(dir.join(format!("{name}.8")), page)
}
