//! `/etc/passwd` is the image's: what it leads to is read with no more rights than the process has that it is read for.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::harness::{Config, Container, Test};

e2e!(what_only_root_may_read_is_not_read, the_kernels_messages_are_not_read, what_is_no_regular_file_is_not_opened,);

/// What a container, and what a process that is brought in, say `HOME` is, and what the runtime says meanwhile.
fn homes(t: &Test, config: Config, prepare: impl Fn(&Container)) -> [(String, String); 2] {
    let c = t.container(config.clone().set("/process/args", ["/bin/sh", "-c", "echo $HOME"].as_slice()));
    prepare(&c);
    let run = c.run().ok();
    let sleep = config.set("/process/args", ["/bin/sleep", "1000"].as_slice());
    c.write(&sleep.set("/linux/cgroupsPath", c.cgroup.clone().unwrap()));
    c.up();
    let exec = c.exec(&["/bin/sh", "-c", "echo $HOME"]).ok();
    [run, exec].map(|output| (output.text().to_owned(), output.stderr))
}

fn replace(c: &Container, make: impl Fn(&std::path::Path)) {
    let passwd = c.rootfs().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    make(&passwd);
}

const SAYS: &str = "HOME is \"/\", as the user's own cannot be looked up: ";

fn what_only_root_may_read_is_not_read(t: &Test) {
    let config = || Config::sleep().capabilities(&[]).set("/process/user/uid", 1000).set("/process/user/gid", 1000);
    let entry = "user:x:1000:1000::/secret:/bin/sh\n";
    for (mode, home, warned) in [(0o644, "/secret", false), (0o600, "/", true)] {
        let answers = homes(t, config(), |c| {
            replace(c, |passwd| {
                fs::write(passwd, entry).unwrap();
                fs::set_permissions(passwd, fs::Permissions::from_mode(mode)).unwrap();
            });
        });
        for (got, said) in answers {
            assert_eq!((got.as_str(), said.contains(SAYS)), (home, warned), "{mode:o}: {said}");
        }
    }
}

fn the_kernels_messages_are_not_read(t: &Test) {
    // A regular file, if one asks for its type. Its readers take the messages away from each other.
    let profile = serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    for config in [
        Config::sleep(),
        // Init keeps CAP_SYS_ADMIN for its filter.
        Config::sleep().set("/process/noNewPrivileges", false).set("/linux/seccomp", profile),
    ] {
        for (home, said) in homes(t, config, |c| replace(c, |passwd| symlink("/proc/kmsg", passwd).unwrap())) {
            assert_eq!(home, "/");
            assert!(said.contains(SAYS) && said.contains("operation not permitted"), "{said}");
        }
    }
}

fn what_is_no_regular_file_is_not_opened(t: &Test) {
    let make: [fn(&std::path::Path); 4] = [
        |passwd| symlink("/dev/zero", passwd).unwrap(),
        |passwd| mknodat(CWD, passwd, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 5)).unwrap(),
        |passwd| mknodat(CWD, passwd, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap(),
        |passwd| fs::create_dir(passwd).unwrap(),
    ];
    for make in make {
        for (home, said) in homes(t, Config::sleep(), |c| replace(c, make)) {
            assert_eq!(home, "/");
            assert!(said.contains("\"/etc/passwd\" is not a regular file"), "{said}");
        }
    }
    // An image need not have one.
    for (home, said) in homes(t, Config::sleep(), |c| replace(c, |_| {})) {
        assert_eq!((home.as_str(), said.as_str()), ("/", ""));
    }
}
