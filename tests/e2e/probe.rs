//! A shell script that tells how it finds its surroundings, and the reader of its report.

use std::fs;

/// Prints sections `## NAME`, then stays.
pub const SCRIPT: &str = r###"
p() { echo "## $1"; }
p status; cat /proc/$$/status
p limits; cat /proc/$$/limits
p mountinfo; cat /proc/$$/mountinfo
p env; tr '\0' '\n' < /proc/$$/environ
for n in cgroup ipc mnt net pid time user uts; do p "ns $n"; readlink /proc/$$/ns/$n; done
p fds; ls -l /proc/$$/fd
p stdin; readlink /proc/$$/fd/0
p cwd; readlink /proc/$$/cwd
p hostname; hostname
p umask; umask
p oom; cat /proc/$$/oom_score_adj
for d in null zero full random urandom tty; do p "device $d"; stat -c %F /dev/$d; done
for l in fd stdin stderr ptmx; do p "link $l"; readlink /dev/$l; done
while read -r id parent dev root point rest; do p "inode $point"; stat -c %i "$point" 2>/dev/null; done < /proc/$$/mountinfo
for m in /proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list \
  /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap /sys/fs/selinux; do
  p "masked $m"
  if [ ! -e $m ]; then echo absent
  elif [ -d $m ]; then if [ -z "$(ls -A $m 2>/dev/null)" ]; then echo empty; else echo entries; fi
  elif [ -z "$(head -c 1 $m 2>/dev/null | od -An -c)" ]; then echo empty; else echo content; fi
done
for m in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /proc/asound; do
  p "present $m"; if [ -e $m ]; then echo yes; else echo no; fi
done
for s in net.ipv4.ip_unprivileged_port_start net.ipv4.ping_group_range net.ipv4.ip_forward; do
  p "sysctl $s"; cat /proc/sys/$(echo $s | tr . /)
done
p end
sleep 1000
"###;

pub struct Report {
    sections: Vec<(String, String)>,
}

/// A line of mountinfo, as far as it matters here.
#[derive(Debug)]
pub struct Mount {
    options: Vec<String>,
    pub propagation: String,
    pub kind: String,
    pub data: Vec<String>,
}

impl Mount {
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|item| item == option)
    }
}

impl Report {
    pub fn parse(text: &str) -> Self {
        let mut sections: Vec<(String, String)> = Vec::new();
        for line in text.lines() {
            match (line.strip_prefix("## "), sections.last_mut()) {
                (Some(name), _) => sections.push((name.to_owned(), String::new())),
                (None, Some((_, body))) => *body += &format!("{line}\n"),
                (None, None) => panic!("the probe printed {line:?}"),
            }
        }
        Self { sections }
    }

    #[track_caller]
    pub fn section(&self, name: &str) -> &str {
        let found = self.sections.iter().rev().find(|(section, _)| section == name);
        &found.unwrap_or_else(|| panic!("no section {name:?}: the probe does not know it")).1
    }

    /// A section of one line.
    #[track_caller]
    pub fn line(&self, name: &str) -> String {
        self.section(name).trim_end().to_owned()
    }

    /// A field of /proc/PID/status.
    #[track_caller]
    pub fn status(&self, name: &str) -> &str {
        let lines = self.section("status").lines();
        let found = lines.filter_map(|line| line.split_once(":")).find(|(field, _)| *field == name);
        found.unwrap_or_else(|| panic!("no {name} in status")).1.trim()
    }

    /// What is mounted last on `point`.
    pub fn mount(&self, point: &str) -> Option<Mount> {
        let point = point.replace("/var/run/", "/run/");
        self.section("mountinfo").lines().rev().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let dash = fields.iter().position(|field| *field == "-")?;
            (fields[4].replace("/var/run/", "/run/") == point).then(|| Mount {
                options: fields[5].split(',').map(str::to_owned).collect(),
                propagation: fields[6..dash].join(" "),
                kind: fields[dash + 1].to_owned(),
                data: fields[dash + 3].split(',').map(str::to_owned).collect(),
            })
        })
    }
}

/// The soft and the hard limit in a text like /proc/PID/limits.
pub fn limit(limits: &str, kind: &str) -> (String, String) {
    let name = match kind {
        "RLIMIT_NOFILE" => "Max open files",
        "RLIMIT_NPROC" => "Max processes",
        "RLIMIT_CORE" => "Max core file size",
        "RLIMIT_AS" => "Max address space",
        other => panic!("{other}: name it here"),
    };
    let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
    let mut values = line[26..].split_whitespace().map(str::to_owned);
    (values.next().unwrap(), values.next().unwrap())
}

pub fn own_hard_limit(kind: &str) -> u64 {
    limit(&fs::read_to_string("/proc/self/limits").unwrap(), kind).1.parse().unwrap_or(u64::MAX)
}

pub fn own_bounding_set() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    u64::from_str_radix(line, 16).unwrap()
}

pub fn has_capability(name: &str) -> bool {
    own_bounding_set() & 1 << capability(name) != 0
}

/// The number of a capability (linux/capability.h).
pub fn capability(name: &str) -> u32 {
    const NAMES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
        NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE \
        SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL \
        SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";
    let position = NAMES.split_whitespace().position(|known| name.strip_prefix("CAP_") == Some(known));
    position.unwrap_or_else(|| panic!("{name}")) as u32
}
