//! A client of berth as containerd's shim. It writes the protocol by hand, so that both sides cannot be wrong alike.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{Cmd, Config, Container, Test, eventually, left};

/// containerd's namespace.
pub const NAMESPACE: &str = "tests";

/// A container that a shim serves, in a bundle as containerd makes it.
pub struct Shimmed<'t> {
    pub container: Container<'t>,
    pub address: PathBuf,
    socket: UnixStream,
    stream: u32,
}

/// A code and a message.
pub type Failure = (u64, String);

impl Test {
    /// What shims keep is in `/run`: each test has one of its own.
    pub fn private_run(&self) -> Run {
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
        Run
    }

    /// The shim's command line, for a container.
    pub fn shim_cmd(&self, c: &Container, action: &str) -> Cmd {
        let program = PathBuf::from(self.path("containerd-shim-berth-v2"));
        if !program.exists() {
            symlink(self.runtime_path(), &program).unwrap();
        }
        let options =
            ["-namespace", NAMESPACE, "-address", "/nonexistent", "-publish-binary", "/bin/true", "-id", &c.id];
        self.command(program).env("TTRPC_ADDRESS", "").cwd(&c.bundle).args(options).arg(action)
    }

    /// A file with this content, to be read.
    pub fn file(&self, name: &str, content: &[u8]) -> fs::File {
        fs::write(self.path(name), content).unwrap();
        fs::File::open(self.path(name)).unwrap()
    }

    /// Starts a shim for a container, which is not created yet.
    pub fn shim(&self, config: Config) -> Shimmed<'_> {
        self.shim_with(config, |start| start)
    }

    pub fn shim_of<'t>(&'t self, container: Container<'t>) -> Shimmed<'t> {
        self.shim_of_with(container, |start| start)
    }

    /// As [`Test::shim`], with something else for the command `start`.
    pub fn shim_with(&self, config: Config, prepare: impl FnOnce(Cmd) -> Cmd) -> Shimmed<'_> {
        self.shim_of_with(self.container(config), prepare)
    }

    fn shim_of_with<'t>(&'t self, container: Container<'t>, prepare: impl FnOnce(Cmd) -> Cmd) -> Shimmed<'t> {
        let output = prepare(self.shim_cmd(&container, "start")).ok();
        let address = PathBuf::from(output.text().strip_prefix("unix://").unwrap());
        let socket = connect(&address);
        Shimmed { container, address, socket, stream: 1 }
    }
}

/// Dropped, it unmounts the private `/run`.
pub struct Run;

impl Drop for Run {
    fn drop(&mut self) {
        let _ = unmount("/run", UnmountFlags::DETACH);
    }
}

fn connect(address: &Path) -> UnixStream {
    let socket = UnixStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket
}

/// A field of a protobuf message: a number.
pub fn number(field: u8, value: u64) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

/// A field of a protobuf message: a text, or another message.
pub fn text(field: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [vec![field << 3 | 2], varint(value.len() as u64), value.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The fields of a message: numbers, and texts.
pub fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes);
        let value = read_varint(&mut bytes);
        let body = match key & 7 {
            0 => Vec::new(),
            2 => {
                let (body, rest) = bytes.split_at(value as usize);
                bytes = rest;
                body.to_vec()
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, value, body));
    }
    fields
}

/// A number of a message, 0 if it is not there.
pub fn value_of(message: &[u8], field: u64) -> u64 {
    fields(message).iter().find(|(number, ..)| *number == field).map_or(0, |(_, value, _)| *value)
}

/// Texts of a message.
pub fn texts_of(message: &[u8], field: u64) -> Vec<Vec<u8>> {
    fields(message).into_iter().filter(|(number, ..)| *number == field).map(|(.., body)| body).collect()
}

impl Shimmed<'_> {
    pub fn id(&self) -> &str {
        &self.container.id
    }

    /// Another connection to the same shim.
    pub fn again(&mut self) {
        self.socket = connect(&self.address);
    }

    /// Sends a request of the task API.
    pub fn send(&mut self, method: &str, payload: &[u8]) -> u32 {
        self.send_to("containerd.task.v2.Task", method, payload)
    }

    pub fn send_to(&mut self, service: &str, method: &str, payload: &[u8]) -> u32 {
        self.try_send(service, method, payload).unwrap()
    }

    fn try_send(&mut self, service: &str, method: &str, payload: &[u8]) -> std::io::Result<u32> {
        let request = [text(1, service), text(2, method), text(3, payload)].concat();
        let (stream, length) = (self.stream, request.len() as u32);
        self.stream += 2;
        let frame = [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[1, 0], &request].concat();
        self.socket.write_all(&frame).map(|()| stream)
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// The next answer, with the number of its stream.
    pub fn receive(&mut self) -> (u32, Result<Vec<u8>, Failure>) {
        self.try_receive().unwrap()
    }

    fn try_receive(&mut self) -> std::io::Result<(u32, Result<Vec<u8>, Failure>)> {
        let mut header = [0; 10];
        self.socket.read_exact(&mut header)?;
        let length = u32::from_be_bytes(header[..4].try_into().unwrap());
        let stream = u32::from_be_bytes(header[4..8].try_into().unwrap());
        assert_eq!(header[8], 2, "a response");
        let mut body = vec![0; length as usize];
        self.socket.read_exact(&mut body)?;
        let answer = match texts_of(&body, 1).first() {
            None => Ok(texts_of(&body, 2).pop().unwrap_or_default()),
            Some(status) => {
                let message = texts_of(status, 2).pop().unwrap_or_default();
                Err((value_of(status, 1), String::from_utf8(message).unwrap()))
            }
        };
        Ok((stream, answer))
    }

    /// Asks a shim that may be killed meanwhile. True if it has answered.
    pub fn asked(&mut self, method: &str, payload: &[u8]) -> bool {
        self.try_send("containerd.task.v2.Task", method, payload).and_then(|_| self.try_receive()).is_ok()
    }

    pub fn call(&mut self, method: &str, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        let stream = self.send(method, payload);
        let (answered, answer) = self.receive();
        assert_eq!(answered, stream);
        answer
    }

    /// A call that names only the container or, with `exec_id`, one of its processes.
    pub fn of(&mut self, method: &str, exec_id: &str) -> Result<Vec<u8>, Failure> {
        let payload = [text(1, self.id()), text(2, exec_id)].concat();
        self.call(method, &payload)
    }

    /// Creates the container with these streams; returns the pid.
    pub fn create(&mut self, terminal: bool, streams: [&str; 3]) -> Result<u64, Failure> {
        self.create_with(terminal, streams, &[])
    }

    /// As [`Shimmed::create`], with further fields of the request.
    pub fn create_with(&mut self, terminal: bool, streams: [&str; 3], more: &[u8]) -> Result<u64, Failure> {
        let bundle = self.container.bundle.to_str().unwrap().to_owned();
        let mut payload = [text(1, self.id()), text(2, bundle), number(4, terminal.into())].concat();
        for (field, stream) in (5..).zip(streams) {
            payload.extend(text(field, stream));
        }
        payload.extend(more);
        self.call("Create", &payload).map(|answer| value_of(&answer, 1))
    }

    /// Adds a process with these streams.
    pub fn exec(&mut self, exec_id: &str, args: &[&str], streams: [&str; 3]) -> Result<(), Failure> {
        let payload = self.exec_payload(exec_id, args, streams);
        self.call("Exec", &payload).map(drop)
    }

    pub fn exec_payload(&self, exec_id: &str, args: &[&str], streams: [&str; 3]) -> Vec<u8> {
        let document = serde_json::json!({ "args": args, "cwd": "/", "env": ["PATH=/bin"] }).to_string();
        let spec = [text(1, "types.containerd.io/opencontainers/runtime-spec/1/Process"), text(2, document)].concat();
        let mut payload = [text(1, self.id()), text(2, exec_id), text(7, spec)].concat();
        for (field, stream) in (4..).zip(streams) {
            payload.extend(text(field, stream));
        }
        payload
    }

    /// The status that a process ends with.
    pub fn wait(&mut self, exec_id: &str) -> u64 {
        value_of(&self.of("Wait", exec_id).unwrap(), 1)
    }

    pub fn kill(&mut self, exec_id: &str, signal: i32) -> Result<(), Failure> {
        let payload = [text(1, self.id()), text(2, exec_id), number(3, signal as u64)].concat();
        self.call("Kill", &payload).map(drop)
    }

    /// The shim's own pid.
    pub fn pid(&mut self) -> i32 {
        value_of(&self.of("Connect", "").unwrap(), 1) as i32
    }

    /// The same as long as there is no container to ask: the process with this test's command line.
    pub fn server(&self) -> i32 {
        let program = self.container.t.path("containerd-shim-berth-v2");
        let is_it = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.starts_with(&program) && line.contains(&format!("-id\0{}\0", self.id())) && !left::is_zombie(*pid)
        };
        let pids =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.into_iter().find(is_it).expect("a shim")
    }

    /// Ends the container and the shim, of which nothing may be left.
    pub fn finish(mut self) {
        let pid = self.pid();
        let _ = self.kill("", libc::SIGKILL);
        self.wait("");
        self.of("Delete", "").unwrap();
        self.of("Shutdown", "").unwrap();
        self.assert_ended(pid);
        assert!(!self.address.exists(), "the socket is left");
        assert!(left::containers(&Path::new("/run/containerd/berth").join(NAMESPACE)).is_empty());
    }

    pub fn assert_ended(&self, pid: i32) {
        eventually("the end of the shim", || !Path::new(&format!("/proc/{pid}")).exists() || left::is_zombie(pid));
    }
}

/// The options of runc's shim, with these fields, as a message that names its type.
pub fn runc_options(fields: &[u8]) -> Vec<u8> {
    any("containerd.runc.v1.Options", fields)
}

pub fn any(kind: &str, message: impl AsRef<[u8]>) -> Vec<u8> {
    [text(1, kind), text(2, message)].concat()
}

/// A fifo in a directory that is closed to others, as containerd makes them.
pub fn fifo(t: &Test, name: &str) -> String {
    use std::os::unix::fs::DirBuilderExt;
    let dir = t.path("fifos");
    let _ = fs::DirBuilder::new().mode(0o700).create(&dir);
    make_fifo(Path::new(&dir), name)
}

pub fn make_fifo(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    let mode = rustix::fs::Mode::from_raw_mode(0o700);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    path.to_str().unwrap().to_owned()
}
