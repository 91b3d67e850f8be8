//! Session keyrings are found by name: a container's is open to its own processes only.

use serde_json::json;

use crate::actor::{self, command, told};
use crate::harness::{Config, Container, Test, eventually};

e2e!(any: a_sibling_does_not_get_the_keys, a_sibling_of_another_user_does_not_get_the_keys, exec_has_the_keys);

const SECRET: &str = "password";

fn exec(c: &Container, deed: &str) -> String {
    let args = command(deed);
    told(&c.exec(&args.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn victim(t: &Test, config: Config) -> Container<'_> {
    let c = actor::container(t, config.set("/process/args", command(&format!("keep-key {SECRET}"))));
    c.up();
    eventually("the key", || exec(&c, "find-key") == SECRET);
    c
}

/// What a container can steal that sees as much of the keys as may be seen.
fn stolen_by(t: &Test, thief: Config, c: &Container) -> String {
    let deed = format!("steal-key {} {}", c.id, exec(c, "session-keyring"));
    let thief = thief.set("/process/args", command(&deed)).set("/linux/maskedPaths", json!([]));
    told(&actor::container(t, thief).run().ok())
}

fn a_sibling_does_not_get_the_keys(t: &Test) {
    for user in [0, 1000] {
        let config = Config::sleep().set("/process/user/uid", user);
        let c = victim(t, config.clone());
        assert_eq!(stolen_by(t, config, &c), "nothing", "user {user}");
    }
}

fn a_sibling_of_another_user_does_not_get_the_keys(t: &Test) {
    let c = victim(t, Config::sleep().set("/process/user/uid", 1000));
    assert_eq!(stolen_by(t, Config::sleep().capabilities(&["CAP_SYS_ADMIN", "CAP_SETUID"]), &c), "nothing");
}

fn exec_has_the_keys(t: &Test) {
    for config in [Config::sleep(), Config::sleep().userns(100_000), Config::sleep().set("/process/user/uid", 7)] {
        let c = victim(t, config);
        let record = std::fs::read_to_string(t.root.join(&c.id).join("state.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        let name = record["keyringName"].as_str().unwrap();
        assert!(name.starts_with(&format!("_ses.{}.", c.id)), "{name}");
    }
}
