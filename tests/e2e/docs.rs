//! The commands of README.md, as they are typed.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::{Terminal, Test, busybox};

e2e!(the_blocks_by_hand);

fn the_blocks_by_hand(t: &Test) {
    if t.is_runc() || t.is_crun() {
        return;
    }
    rustix::mount::mount("tmpfs", "/run", "tmpfs", rustix::mount::MountFlags::empty(), Some(c"mode=755")).unwrap();
    t.accept_mounts();
    let bin = t.dir.join("bin");
    fs::create_dir(&bin).unwrap();
    symlink(t.runtime_path(), bin.join("berth")).unwrap();
    symlink(busybox(), bin.join("busybox")).unwrap();
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let blocks = readme.split("```sh by-hand\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    // Where tests run beside this one, the name must be its own.
    let id = format!("web-{}-{:?}", std::process::id(), t.mode);
    let commands = blocks.collect::<String>().replace(" web", &format!(" {id}"));
    // Nobody types as fast as that a killed process is not gone yet.
    let kill = format!("berth kill {id} KILL\n");
    let wait = format!("{kill}until berth state {id} | grep -q stopped; do sleep 0.01; done\n");
    let commands = commands.replace(&kill, &wait);
    assert!(
        commands.contains(&wait) && commands.contains("berth run") && commands.contains("berth delete"),
        "{commands}"
    );

    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let shell = t.command("/bin/sh").args(["-ex", "-c", &commands]).cwd(&t.dir).env("PATH", &path);
    let running = shell.on_terminal(slave).spawn();
    let mut terminal = Terminal::new(master);
    // "/ # ", or as newer busyboxes call the home directory, "~ # ".
    terminal.wait(" # ");
    terminal.write("exit\n");
    // What `ps` shows.
    terminal.wait("sleep 1000");
    running.wait().ok();
    assert_eq!(fs::read_dir("/run/berth").unwrap().count(), 0);
}
