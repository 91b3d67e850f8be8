//! Images whose links bring a volume to where the container's own devices are made.
//!
//! What is in a directory of the host stays as it is: no device, no link and no mount point is made there that nobody
//! asked for by its place, and `ptmx` is not deleted (CVE-2026-41579 by way of a volume).

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Config, Container, DescriptorSocket, Test, make_rootfs};

e2e!(any:
    a_link_is_no_dev,
    a_volume_does_not_come_over_dev_by_a_link,
    nothing_is_made_in_a_dev_of_the_hosts,
    the_root_is_not_replaced_by_a_link,
    devices_are_not_made_in_volumes,
    a_console_is_not_made_in_a_volume,
);

/// Every file below: what it is and what it holds.
fn listing(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        let content = if meta.is_file() {
            String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
        } else {
            String::new()
        };
        found.push(format!("{path:?} {:o} {} {} {content:?}", meta.mode(), meta.ino(), meta.rdev()));
        if meta.is_dir() {
            found.extend(listing(&path));
        }
    }
    found.sort();
    found
}

fn host(t: &Test) -> String {
    fs::create_dir_all(t.path("host/sub")).unwrap();
    t.write("host/ptmx", "precious\n");
    t.path("host")
}

fn bind(source: &str, destination: &str) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rw"] })
}

fn a_link_is_no_dev(t: &Test) {
    // CVE-2026-41579, CVE-2026-47766: what is made in /dev would be made where the link leads.
    let host = host(t);
    let before = listing(Path::new(&host));
    let mut bare = Config::new(["/bin/true"]);
    let mounts = bare.json["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    for config in [Config::new(["/bin/true"]), bare] {
        for target in [host.as_str(), "../../host", "tmp"] {
            let c = t.container(config.clone());
            fs::remove_dir_all(c.rootfs().join("dev")).unwrap();
            symlink(target, c.rootfs().join("dev")).unwrap();
            c.run().fails().says("/dev in the root filesystem must be a directory, not a link");
            assert_eq!(listing(Path::new(&host)), before);
            c.assert_gone();
        }
    }
}

/// As the first mount of all, and as the last.
fn orders(config: &Config, mount: &Value) -> [Config; 2] {
    let mut first = config.clone();
    first.json["mounts"].as_array_mut().unwrap().insert(0, mount.clone());
    [first, config.clone().mount(mount.clone())]
}

fn link(c: &Container, (name, target): (&str, &str)) {
    let path = c.rootfs().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

fn a_volume_does_not_come_over_dev_by_a_link(t: &Test) {
    let host = host(t);
    let before = listing(host.as_ref());
    let tmpfs = |destination: &str| json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs" });
    for (links, destination, place) in [
        (&[("x", "dev")][..], "/x", "dev"),
        (&[("x", "/dev")], "/x", "dev"),
        (&[("x", "/dev")], "/x/.", "dev"),
        (&[("x", "../../../dev")], "/x", "dev"),
        (&[("x/y", "../dev")], "/x/y", "dev"),
        (&[("x", "y"), ("y", "z/dev"), ("z", ".")], "/x", "dev"),
        (&[("x", "/dev/shm")], "/x/..", "dev"),
        (&[("dev/x", ".")], "/dev/x", "dev"),
        (&[("x", "proc")], "/x", "proc"),
        (&[("x", "/sys")], "/x", "sys"),
    ] {
        for config in [Config::new(["/bin/true"]), Config::new(["/bin/true"]).userns(100_000)] {
            for mount in [bind(&host, destination), tmpfs(destination)] {
                for config in orders(&config, &mount) {
                    let c = t.container(config);
                    fs::create_dir_all(c.rootfs().join("dev/shm")).unwrap();
                    links.iter().for_each(|&names| link(&c, names));
                    let output = c.run();
                    assert_eq!(listing(host.as_ref()), before, "{links:?}: {output}");
                    // Before the mount on /dev, a link in the image's own /dev is there, and afterwards no more.
                    if destination == "/dev/x" && output.status.success() {
                        continue;
                    }
                    output.fails().says(&format!("leads to \"/{place}\" by a link"));
                    c.assert_gone();
                }
            }
        }
    }
    // Below /dev there is nothing that would be made.
    for (name, target, path) in [("x", "dev/shm", "/dev/shm"), ("y", "/dev/mqueue", "/dev/mqueue")] {
        let c = t.container(Config::sh(&format!("cat {path}/ptmx")).mount(bind(&host, &format!("/{name}"))));
        link(&c, (name, target));
        assert_eq!(c.run().ok().text(), "precious");
        assert_eq!(listing(host.as_ref()), before);
    }
}

/// Without any mount below /dev, and nothing masked by what is there.
fn without_dev(mut config: Config) -> Config {
    let mounts = config.json["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    config.set("/linux/maskedPaths", json!([]))
}

fn nothing_is_made_in_a_dev_of_the_hosts(t: &Test) {
    let host = host(t);
    let before = listing(host.as_ref());
    // By its name; by another that means the same; by a mount that the host itself has made in the root filesystem.
    for (destination, options) in [("/dev", "rbind"), ("dev/", "bind"), ("/tmp/../dev", "rbind")] {
        let mount = json!({ "destination": destination, "type": "none", "source": host, "options": [options] });
        let c = t.container(without_dev(Config::sh("cat /dev/ptmx")).mount(mount));
        assert_eq!(c.run().ok().text(), "precious", "{destination}");
        assert_eq!(listing(host.as_ref()), before, "{destination}");
    }
    let c = t.container(without_dev(Config::sh("cat /dev/ptmx")));
    rustix::mount::mount_bind(&host, c.rootfs().join("dev")).unwrap();
    let output = c.run();
    rustix::mount::unmount(c.rootfs().join("dev"), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(output.ok().text(), "precious");
    assert_eq!(listing(host.as_ref()), before);
    // As part of a volume that is the root.
    make_rootfs(&t.dir.join("other"));
    fs::write(t.path("other/dev/ptmx"), "precious\n").unwrap();
    let dev = t.dir.join("other/dev");
    let before = listing(&dev);
    let mount = bind(&t.path("other"), "/");
    let [config, _] = orders(&without_dev(Config::sh("cat /dev/ptmx")), &mount);
    assert_eq!(t.container(config).run().ok().text(), "precious");
    assert_eq!(listing(&dev), before);
}

fn the_root_is_not_replaced_by_a_link(t: &Test) {
    make_rootfs(&t.dir.join("other"));
    let before = listing(&t.dir.join("other"));
    for (name, target, destination) in [("x", "/", "/x"), ("x", ".", "/x"), ("x", "..", "/x")] {
        for config in orders(&Config::new(["/bin/true"]), &bind(&t.path("other"), destination)) {
            let c = t.container(config);
            link(&c, (name, target));
            c.run().fails().says("leads to \"/\" by a link");
            assert_eq!(listing(&t.dir.join("other")), before, "{target}");
        }
    }
}

fn devices_are_not_made_in_volumes(t: &Test) {
    let host = host(t);
    let before = listing(host.as_ref());
    let device = |path: &str| json!([{ "path": path, "type": "c", "major": 1, "minor": 3 }]);
    for config in [Config::new(["/bin/true"]), Config::new(["/bin/true"]).userns(100_000)] {
        for (volume, path) in [("/vol", "/vol/null"), ("/vol", "/x/null"), ("/dev/usb", "/dev/usb/null")] {
            let c = t.container(config.clone().mount(bind(&host, volume)).set("/linux/devices", device(path)));
            link(&c, ("x", "vol"));
            fs::create_dir(c.rootfs().join("vol")).unwrap();
            let output = c.run();
            assert_eq!(listing(host.as_ref()), before, "{path}: {output}");
            output.fails().says(path);
        }
    }
    // One that is there already is what the configuration asks for.
    t.command("/bin/mknod").args([&t.path("host/null"), "c", "1", "3"]).ok();
    let config = Config::sh("echo x > /vol/null && stat -c %t:%T /vol/null");
    let c = t.container(config.mount(bind(&host, "/vol")).set("/linux/devices", device("/vol/null")));
    assert_eq!(c.run().ok().text(), "1:3");
    assert!(fs::metadata(t.path("host/null")).unwrap().file_type().is_char_device());
}

fn a_console_is_not_made_in_a_volume(t: &Test) {
    let host = host(t);
    let mut config = Config::sh("tty; ls /dev/console").set("/process/terminal", true);
    config = config.set("/linux/maskedPaths", json!([]));
    for mount in config.json["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/dev" {
            *mount = bind(&host, "/dev");
        }
    }
    fs::create_dir(t.path("host/pts")).unwrap();
    fs::create_dir(t.path("host/shm")).unwrap();
    fs::create_dir(t.path("host/mqueue")).unwrap();
    let before = listing(host.as_ref());
    let c = t.container(config);
    let socket = DescriptorSocket::new(&t.dir.join("socket"));
    c.create_cmd(&["--console-socket", socket.path()]).ok();
    assert_eq!(listing(host.as_ref()), before);
    let mut terminal = socket.terminal();
    c.start().ok();
    terminal.wait("/dev/pts/0");
    terminal.wait("No such file");
    c.wait_status("stopped");
    t.keep(terminal);
}
