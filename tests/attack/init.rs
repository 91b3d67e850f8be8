//! Init in the hands of the container, or dead: what the runtime makes of it.
//!
//! `launch::requests` has the tests of an init that asks for what it should not get.

use serde_json::json;

use crate::harness::{Config, Test};

e2e!(start_fails_if_init_dies_before_the_process_is_executed, a_program_may_end_at_once,);

fn start_fails_if_init_dies_before_the_process_is_executed(t: &Test) {
    // The last moment at which somebody else can be at it: a hook of the container kills it.
    let hook = "read state; pid=${state##*\\\"pid\\\":}; kill -9 ${pid%%,*}; sleep 1";
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/bin"] });
    let config = || Config::new(["/bin/true"]).without_namespace("pid").push("/hooks/startContainer", hook.clone());
    let c = t.container(config());
    c.create().ok();
    c.start().fails().says("init ended without a word, before it executed the process");
    c.delete_force().ok();
    t.container(config()).run().fails().says("init was killed");
}

fn a_program_may_end_at_once(t: &Test) {
    // Its end is not taken for that of an init which never executed it.
    for name in ["true", "false"] {
        for _ in 0..20 {
            let c = t.container(Config::new([format!("/bin/{name}")]));
            c.create().ok();
            c.start().ok();
            c.delete_force().ok();
        }
    }
}
