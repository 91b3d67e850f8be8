//! Tracers: until its exec the process of a container that was created has neither seccomp filter nor label, so whoever
//! can trace it can do without them.

use crate::actor::{self, command, told};
use serde_json::json;

use crate::harness::{Config, Container, Test};

e2e!(a_waiting_init_cannot_be_traced_by_a_sibling, a_waiting_init_cannot_be_traced_by_exec,);

/// A container that joins the user and the PID namespace of `victim`, and traces its first process.
fn traced_by_a_sibling(t: &Test, victim: &Container) -> String {
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", victim.pid());
    let config = Config::new(command("trace 1")).capabilities(&["CAP_SYS_PTRACE"]);
    let config = config.namespace("user", Some(&path("user"))).namespace("pid", Some(&path("pid")));
    told(&actor::container(t, config).run().ok())
}

fn a_waiting_init_cannot_be_traced_by_a_sibling(t: &Test) {
    // Also where the namespace knows the host's root.
    for base in [100_000, 0] {
        let c = t.container(Config::sleep().userns(base));
        c.create().ok();
        assert_eq!(traced_by_a_sibling(t, &c), "Operation not permitted (os error 1)", "ids from {base} on");
        c.start().ok();
        assert_eq!(traced_by_a_sibling(t, &c), "traced", "this tracer can");
    }
}

fn a_waiting_init_cannot_be_traced_by_exec(t: &Test) {
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    let args = command("trace 1");
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    for (config, confined) in [
        (Config::sleep(), false),
        (Config::sleep().set("/linux/seccomp", profile.clone()), true),
        (Config::sleep().set("/linux/seccomp", profile).userns(100_000), true),
    ] {
        let c = actor::container(t, config);
        c.create().ok();
        let exec = |options: &[&str]| c.exec_cmd(options, &args).run();
        // Without the capability nobody gets at it; with it only where there is nothing to get around.
        assert_eq!(told(&exec(&[]).ok()), "Operation not permitted (os error 1)");
        match confined {
            true => drop(exec(&["--cap", "CAP_SYS_PTRACE"]).fails().says("the container has not been started")),
            false => assert_eq!(told(&exec(&["--cap", "CAP_SYS_PTRACE"]).ok()), "traced"),
        }
        c.start().ok();
        assert_eq!(told(&exec(&["--cap", "CAP_SYS_PTRACE"]).ok()), "traced");
    }
}
