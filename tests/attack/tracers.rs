//! Processes of a container that trace others, and never ask how these have ended. Only their tracer is told of that,
//! so nobody who waits for them may rely on being told.

use serde_json::json;

use crate::actor::{self, command};
use crate::harness::{Config, Container, Test, eventually};

e2e!(any: of_exec, of_run, of_the_shim, of_an_ended_init, a_hook_that_has_ended, a_hook_that_is_killed,
    of_threads_of_init);
e2e!(an_init_that_is_held_on_its_way);

/// Waits until the process of this pid is traced. Makes no process, whose end would be hidden from this one.
fn until_traced(pid: &str) -> String {
    format!(
        "until [ $traced ]; do while read name value; do case $name$value in TracerPid:[1-9]*) traced=1 ;; esac; \
         done < /proc/{pid}/status; done;"
    )
}

/// A container that traces all that comes into its PID namespace and has no more rights than itself.
fn tracer<'a>(t: &'a Test, capabilities: &[&str]) -> Container<'a> {
    tracing(t, "trace-all", capabilities)
}

fn tracing<'a>(t: &'a Test, deed: &str, capabilities: &[&str]) -> Container<'a> {
    let c = actor::container(t, Config::new(command(deed)).capabilities(capabilities));
    c.up();
    c
}

fn beside(tracer: &Container, config: Config) -> Config {
    config.namespace("pid", Some(&format!("/proc/{}/ns/pid", tracer.pid())))
}

fn of_exec(t: &Test) {
    let c = tracer(t, &[]);
    for (end, code) in [("exit 7", 7), ("kill -KILL $$", 128 + 9)] {
        c.exec_cmd(&[], &["/bin/sh", "-c", &format!("{} {end}", until_traced("$$"))]).run().code(code);
    }
    c.delete_force().ok();
}

fn of_run(t: &Test) {
    let tracer = tracer(t, &[]);
    let script = format!("{} exit 7", until_traced("$$"));
    let c = t.container(beside(&tracer, Config::sh(&script)).capabilities(&[]));
    c.run().code(7);
    tracer.delete_force().ok();
    c.assert_gone();
}

fn of_the_shim(t: &Test) {
    let _run = t.private_run();
    let config = Config::new(command("trace-all")).capabilities(&[]);
    let mut shim = t.shim_of(actor::container(t, config));
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    shim.exec("traced", &["/bin/sh", "-c", &format!("{} exit 7", until_traced("$$"))], ["", "", ""]).unwrap();
    shim.of("Start", "traced").unwrap();
    assert_eq!(shim.wait("traced"), 7);
    shim.of("Delete", "traced").unwrap();
    shim.finish();
}

/// Of a create that fails. The runtime has killed it.
fn of_an_ended_init(t: &Test) {
    let tracer = tracer(t, &["CAP_SYS_PTRACE"]);
    let hook = format!("read state; pid=${{state##*\\\"pid\\\":}}; pid=${{pid%%,*}}; {} exit 3", until_traced("$pid"));
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/bin:/usr/bin"] });
    let c = t.container(beside(&tracer, Config::sleep()).push("/hooks/createRuntime", hook));
    c.create().fails().says("error running createRuntime hook #0: exit status 3");
    tracer.delete_force().ok();
    c.assert_gone();
}

/// In the container, so with its rights. `script` runs once it is traced.
fn with_hook(tracer: &Container, script: &str, timeout: Option<u32>) -> Config {
    let script = format!("{} {script}", until_traced("$$"));
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"], "timeout": timeout });
    beside(tracer, Config::sleep()).capabilities(&[]).push("/hooks/startContainer", hook)
}

fn a_hook_that_has_ended(t: &Test) {
    let tracer = tracer(t, &["CAP_SYS_PTRACE"]);
    let c = t.container(with_hook(&tracer, "exit 0", None));
    c.create().ok();
    c.start()
        .fails()
        .says("the hook has ended, but a process of the container traces it, so its exit status is unknown");
    c.delete_force().ok();
    tracer.delete_force().ok();
}

fn a_hook_that_is_killed(t: &Test) {
    let tracer = tracer(t, &["CAP_SYS_PTRACE"]);
    let c = t.container(with_hook(&tracer, "exec sleep 1000", Some(1)));
    c.create().ok();
    c.start().fails().says("hook ran past specified timeout of 1.0s");
    c.delete_force().ok();
    tracer.delete_force().ok();
}

/// It has another thread than its first, which alone is traced.
fn threaded() -> Vec<String> {
    command("exit-beside-a-traced-thread")
}

/// The container can be removed all the same.
fn of_threads_of_init(t: &Test) {
    let tracer = tracing(t, "trace-threads", &[]);
    let c = actor::container(t, beside(&tracer, Config::new(threaded())).capabilities(&[]));
    c.up();
    let stat = format!("/proc/{}/stat", c.pid());
    eventually("the end of its main thread", || std::fs::read_to_string(&stat).unwrap().contains(") Z "));
    c.delete_force().ok();
    c.assert_gone();
    tracer.delete_force().ok();
}

/// It is killed, but its end, which is that of its PID namespace, does not come by itself.
fn an_init_that_is_held_on_its_way(t: &Test) {
    let c = actor::container(t, Config::sleep());
    c.up();
    let holder = c.exec_cmd(&[], &command("hold-exit 1").iter().map(String::as_str).collect::<Vec<_>>()).spawn();
    assert_eq!(c.wait_file("/held"), "held\n");
    c.kill("KILL").ok();
    c.wait_status("stopped");
    holder.wait().code(128 + 9);
    c.delete().ok();
    c.assert_gone();
}
