//! Completions, in the shells themselves: what somebody types at a terminal, and what the shell makes of it.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::harness::{Config, Operator, Test, eventually, script};

e2e!(any: bash, zsh, fish);

/// A shell that has loaded the completions.
trait Shell {
    /// The words that complete the last one of `line`.
    fn complete(&mut self, line: &str) -> Vec<String>;
}

/// A shell at a terminal: one key puts all completions into the line, another hands over the line and empties it.
struct AtTerminal {
    operator: Operator,
    taken: std::path::PathBuf,
}

impl AtTerminal {
    fn new(t: &Test, shell: &str, args: &[&str]) -> (Self, crate::harness::Running) {
        let mut operator = Operator::new();
        let taken = t.dir.join("line");
        let shell =
            t.command(shell).args(args).cwd(t.dir.join("empty")).env("PATH", &path(t)).env("HOME", &t.path("home"));
        let shell = shell.env("ZDOTDIR", &t.path("zdotdir")).env("TERM", "dumb").env("TAKEN", taken.to_str().unwrap());
        let shell = operator.types(shell).spawn();
        operator.terminal.wait("ready> ");
        (Self { operator, taken }, shell)
    }
}

impl Shell for AtTerminal {
    fn complete(&mut self, line: &str) -> Vec<String> {
        let _ = std::fs::remove_file(&self.taken);
        self.operator.terminal.write(line);
        self.operator.terminal.write("\x18a\x18p");
        let mut text = String::new();
        eventually(&format!("completions of {line:?}"), || {
            text = std::fs::read_to_string(&self.taken).unwrap_or_default();
            text.ends_with('\n')
        });
        let before = line.rfind([' ', '=']).map_or(0, |last| last + 1);
        let words = text.strip_prefix(&line[..before]).unwrap_or_else(|| panic!("{line:?} became {text:?}"));
        words.split_whitespace().map(bare).collect()
    }
}

struct Fish<'t>(&'t Test);

impl Shell for Fish<'_> {
    fn complete(&mut self, line: &str) -> Vec<String> {
        let fish = self.0.command("/usr/bin/fish").cwd(self.0.dir.join("empty")).env("PATH", &path(self.0));
        let fish = fish.env("HOME", &self.0.path("home")).env("XDG_CONFIG_HOME", &self.0.path("home"));
        let fish =
            fish.args(["--no-config", "-c", "source $argv[1]; complete -C $argv[2]", &self.0.path("berth.fish"), line]);
        let output = fish.ok();
        assert_eq!(output.stderr, "", "{line}");
        // Some are described.
        output.stdout.lines().map(|line| bare(line.split('\t').next().unwrap())).collect()
    }
}

/// Shells differ in what they add: a slash to a directory, `=` where a value may follow, the option before a value.
fn bare(word: &str) -> String {
    word.trim_end_matches(['/', '=']).rsplit('=').next().unwrap().to_owned()
}

/// `berth` is the one that is tested.
fn path(t: &Test) -> String {
    format!("{}:/usr/bin:/bin", t.path("bin"))
}

fn prepare(t: &Test) -> bool {
    if t.peer_lacks("completions") {
        return false;
    }
    for dir in ["bin", "home/roots", "empty", "zdotdir/functions"] {
        std::fs::create_dir_all(t.dir.join(dir)).unwrap();
    }
    symlink(t.runtime_path(), t.dir.join("bin/berth")).unwrap();
    symlink(&t.root, t.dir.join("home/roots/a b")).unwrap();
    true
}

fn bash(t: &Test) {
    if !prepare(t) {
        return;
    }
    let rc = r#"PS1='ready> '
        bind 'set bell-style none'; bind 'set completion-query-items 0'; bind 'set enable-bracketed-paste off'
        bind '"\C-xa": insert-completions'
        take() { printf '%s\n' "$READLINE_LINE" > "$TAKEN"; READLINE_LINE= READLINE_POINT=0; }
        bind -x '"\C-xp": take'
        source <(berth completion bash)"#;
    std::fs::write(t.dir.join("bashrc"), rc).unwrap();
    let (mut bash, mut process) = AtTerminal::new(t, "/bin/bash", &["--rcfile", &t.path("bashrc"), "-i"]);
    completes(t, &mut bash);
    process.kill();
}

fn zsh(t: &Test) {
    if !prepare(t) {
        return;
    }
    let rc = r#"PS1='ready> '
        berth completion zsh > $ZDOTDIR/functions/_berth
        fpath=($ZDOTDIR/functions $fpath)
        autoload -Uz compinit; compinit -D -u
        zle -C all-matches complete-word _generic
        zstyle ':completion:all-matches:*' completer _all_matches _complete
        zstyle ':completion:all-matches:*' insert true
        bindkey '^Xa' all-matches
        take() { print -r -- "$BUFFER" > $TAKEN; BUFFER= }
        zle -N take; bindkey '^Xp' take"#;
    std::fs::write(t.dir.join("zdotdir/.zshrc"), rc).unwrap();
    // Debian's own start-up files call compinit as well, and ask.
    let (mut zsh, mut process) = AtTerminal::new(t, "/usr/bin/zsh", &["-o", "noglobalrcs", "-i"]);
    completes(t, &mut zsh);
    process.kill();
}

fn fish(t: &Test) {
    if prepare(t) {
        std::fs::write(t.dir.join("berth.fish"), t.runtime().args(["completion", "fish"]).ok().stdout).unwrap();
        completes(t, &mut Fish(t));
    }
}

fn completes(t: &Test, shell: &mut dyn Shell) {
    let root = t.root.to_str().unwrap();
    let all = ["web-1", "web-2", "state"].map(|id| t.container_named(id, Config::sleep()));
    all.iter().for_each(|c| drop(c.create().ok()));
    let mut check = |line: &str, wanted: &str| {
        let mut words = shell.complete(&line.replace("ROOT", root));
        // At a terminal, a word without completions stays as it is.
        words.retain(|word| !line.ends_with(&format!(" {word}")));
        words.sort();
        assert_eq!(words.join(" "), wanted, "{line}");
    };
    for (line, wanted) in [
        // Commands, and what is no command.
        ("berth ru", "run"),
        ("berth sta", "start state"),
        ("berth --debug --log-format json sta", "start state"),
        ("berth --root ROOT sta", "start state"),
        // Options.
        ("berth --log-l", "--log-level"),
        ("berth run --bun", "--bundle"),
        // fish offers also what has the word in the middle, as --cap for "--ap".
        ("berth --root ROOT exec --app", "--apparmor"),
        // Values of options, also in one word with them.
        ("berth --log-format ", "json text"),
        ("berth --log-format=", "json text"),
        ("berth list --format ", "json table"),
        ("berth list --format=", "json table"),
        ("berth list -f ", "json table"),
        ("berth validate --format s", "sarif"),
        ("berth checkpoint --manage-cgroups-mode s", "soft strict"),
        ("berth --cgroup-manager ", "cgroupfs disabled systemd"),
        ("berth run --bundle /us", "/usr"),
        ("berth exec --cap ", ""),
        ("berth --root /us", "/usr"),
        ("berth run --pid-file /etc/os-r", "/etc/os-release"),
        ("berth run --config=/etc/os-r", "/etc/os-release"),
        ("berth exec --process /etc/os-r", "/etc/os-release"),
        ("berth update --resources /etc/os-r", "/etc/os-release"),
        ("berth --log /etc/os-r", "/etc/os-release"),
        ("berth validate /etc/os-r", "/etc/os-release"),
        // Operands that are no containers.
        ("berth completion ", "bash fish zsh"),
        ("berth --debug mounts a", "add"),
        // Containers, of the root before the command.
        ("berth --root ROOT delete ", "state web-1 web-2"),
        ("berth --root=ROOT delete web", "web-1 web-2"),
        ("berth -r ROOT delete --force web", "web-1 web-2"),
        ("berth --root 'ROOT' delete web", "web-1 web-2"),
        ("berth --root ~/roots/a\\ b delete web", "web-1 web-2"),
        ("berth --root ROOT delete -r web", "web-1 web-2"),
        ("berth --root ROOT exec --user 0 web", "web-1 web-2"),
        ("berth --root ROOT --debug mounts add w", "web-1 web-2"),
        ("berth --root /nonexistent delete ", ""),
        // What follows a container.
        ("berth --root ROOT kill web-1 KI", "KILL"),
        ("berth --root ROOT kill state KI", "KILL"),
        ("berth --root ROOT kill web-1 SIGT", "SIGTERM SIGTRAP SIGTSTP SIGTTIN SIGTTOU"),
        ("berth --root ROOT exec web-1 ", ""),
        ("berth --root ROOT exec web-1 sh --use", ""),
        ("berth --root ROOT start web-1 ", ""),
    ] {
        check(line, wanted);
    }
    all.iter().for_each(|c| drop(c.delete_force().ok()));
    nothing_is_executed(t, shell);
}

/// Whatever a `berth` says that its containers are called, and whatever stands in the line, is text.
fn nothing_is_executed(t: &Test, shell: &mut dyn Shell) {
    let proof = t.path("proof");
    let ids = format!(
        "$(touch${{IFS}}{proof})\n`touch {proof}`\na;touch {proof}\n${{x:=$(touch {proof})}}\n~root\nb*\nharmless\n"
    );
    std::fs::write(t.dir.join("ids"), ids).unwrap();
    std::fs::remove_file(t.dir.join("bin/berth")).unwrap();
    script(&t.dir.join("bin/berth"), &format!("cat {}", t.path("ids")));
    assert_eq!(shell.complete("berth delete h"), ["harmless"]);
    shell.complete("berth delete ");
    for root in ["$(touch PROOF)", "`touch PROOF`", "\"$(touch PROOF)\"", "${x:=$(touch PROOF)}", "<(touch PROOF)"] {
        shell.complete(&format!("berth --root {} delete h", root.replace("PROOF", &proof)));
    }
    assert!(!Path::new(&proof).exists(), "a command was executed");
}
