//! `berth completion`: completions for a shell, made from the same definitions that the parser uses.

use std::fmt::Write as _;

use clap::{Arg, builder::PossibleValue};

use super::{COMMANDS, Command, get_string, print};

pub(super) const COMMAND: Command = Command {
    name: "completion",
    about: "print completions for a shell",
    options_end: false,
    options: |command| {
        let shell = Arg::new("shell").value_name("SHELL").required(true).value_parser(["bash", "zsh", "fish"]);
        command.arg(shell.help("the shell that is to read them"))
    },
    run: |_, matches| {
        let commands = commands();
        print(&match get_string(matches, "shell").as_deref() {
            Some("bash") => bash(&commands),
            Some("zsh") => zsh(&commands),
            _ => fish(&commands),
        })?;
        Ok(0)
    },
    failure: 1,
};

/// What shells need to know of a command; the first one is that of the global options, without a name.
struct Completed {
    name: &'static str,
    about: &'static str,
    options: Vec<Opt>,
    takes_id: bool,
    /// What else may stand in its place.
    words: Vec<String>,
}

struct Opt {
    long: String,
    short: Option<char>,
    help: String,
    value: Option<Value>,
}

enum Value {
    File,
    Directory,
    OneOf(Vec<String>),
    Text,
}

impl Opt {
    fn of(arg: &Arg) -> Option<Self> {
        let long = arg.get_long().filter(|_| !arg.is_hide_set())?;
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let value = arg.get_action().takes_values().then(|| Value::of(arg));
        Some(Self { long: long.to_owned(), short: arg.get_short(), help, value })
    }

    /// `--long` and `-s`.
    fn forms(&self) -> impl Iterator<Item = String> {
        [Some(format!("--{}", self.long)), self.short.map(|short| format!("-{short}"))].into_iter().flatten()
    }
}

impl Value {
    fn of(arg: &Arg) -> Self {
        let shape = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
        match possible(arg) {
            words if !words.is_empty() => Self::OneOf(words),
            _ if shape.ends_with("DIR") => Self::Directory,
            _ if shape.ends_with("FILE") || shape.ends_with("SOCKET") => Self::File,
            _ => Self::Text,
        }
    }
}

fn possible(arg: &Arg) -> Vec<String> {
    let values = if arg.get_action().takes_values() { arg.get_possible_values() } else { Vec::new() };
    values.iter().map(PossibleValue::get_name).map(str::to_owned).collect()
}

fn completed(name: &'static str, about: &'static str, mut command: clap::Command) -> Completed {
    // With `--help`.
    command.build();
    let options = command.get_arguments().filter_map(Opt::of).collect();
    let takes_id = command.get_positionals().any(|arg| arg.get_id() == "id");
    let words = command.get_positionals().flat_map(possible).collect();
    Completed { name, about, options, takes_id, words }
}

fn commands() -> Vec<Completed> {
    let mut all = vec![completed("", "", super::global_options("berth"))];
    all.extend(COMMANDS.iter().map(|command| {
        completed(command.name, command.about, (command.options)(super::base(command.name, command.about)))
    }));
    all
}

/// The forms of the options that `which` picks.
fn forms(command: &Completed, which: impl Fn(&Opt) -> bool) -> String {
    command.options.iter().filter(|option| which(option)).flat_map(Opt::forms).collect::<Vec<_>>().join(" ")
}

fn names(commands: &[Completed]) -> String {
    commands[1..].iter().map(|command| command.name).collect::<Vec<_>>().join(" ")
}

const BASH_HEAD: &str = r#"_berth() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= i
    local options= files= directories= texts= words= ids=
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
"#;

const BASH_TAIL: &str = r#"    esac
    COMPREPLY=()
    if [[ " $directories " == *" $before "* ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        return
    elif [[ " $files " == *" $before "* ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    elif [[ " $texts " == *" $before "* ]]; then
        return
    elif [[ $current == -* ]]; then
        words=$options
    elif [[ -n $ids ]]; then
        words+=" $("${COMP_WORDS[0]}" list --quiet 2> /dev/null)"
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -o default -F _berth berth
"#;

fn bash(commands: &[Completed]) -> String {
    let mut text = String::from(BASH_HEAD);
    let valued = forms(&commands[0], |option| option.value.is_some()).replace(' ', "|");
    let _ = writeln!(text, "            {valued}) ((i++)) ;;");
    text.push_str("            -*) ;;\n            *) command=${COMP_WORDS[i]}; break ;;\n        esac\n    done\n");
    text.push_str("    case $command in\n");
    for command in commands {
        let is = |wanted: fn(&Value) -> bool| forms(command, move |option| option.value.as_ref().is_some_and(wanted));
        let _ = writeln!(text, "    {})", if command.name.is_empty() { "''" } else { command.name });
        let words = if command.name.is_empty() { names(commands) } else { command.words.join(" ") };
        for (variable, value) in [
            ("options", forms(command, |_| true)),
            ("files", is(|value| matches!(value, Value::File))),
            ("directories", is(|value| matches!(value, Value::Directory))),
            ("texts", is(|value| matches!(value, Value::Text))),
            ("words", words),
            ("ids", if command.takes_id { "1".to_owned() } else { String::new() }),
        ] {
            if !value.is_empty() {
                let _ = writeln!(text, "        {variable}='{value}'");
            }
        }
        for option in &command.options {
            if let Some(Value::OneOf(words)) = &option.value {
                let forms = option.forms().collect::<Vec<_>>().join("|");
                let reply = format!("mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$current\")", words.join(" "));
                let _ = writeln!(text, "        case $before in {forms}) {reply}; return ;; esac");
            }
        }
        text.push_str("        ;;\n");
    }
    text + BASH_TAIL
}

/// For a word in single quotes that `_arguments` reads, where brackets and colons part things.
fn zsh_quoted(text: &str) -> String {
    text.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:")
}

/// Whether it was read as a whole or, by the first line, as the function of this name.
const ZSH_TAIL: &str = "if [[ $funcstack[1] == _berth ]]; then _berth \"$@\"; else compdef _berth berth; fi\n";

fn zsh(commands: &[Completed]) -> String {
    let mut text = String::from(
        "#compdef berth\n\n_berth_ids() {\n    local -a ids=(${(f)\"$(berth list --quiet 2> /dev/null)\"})\n    compadd -a ids\n}\n\n_berth_commands() {\n    local -a commands=(\n",
    );
    for command in &commands[1..] {
        let _ = writeln!(text, "        '{}:{}'", command.name, zsh_quoted(command.about));
    }
    text.push_str("    )\n    _describe command commands\n}\n\n");
    for command in commands {
        let name = if command.name.is_empty() { String::new() } else { format!("_{}", command.name) };
        let _ = writeln!(text, "_berth{name}() {{\n    local context state line\n    _arguments -C \\");
        for option in &command.options {
            let value = match &option.value {
                None => String::new(),
                Some(Value::File) => ":file:_files".to_owned(),
                Some(Value::Directory) => ":directory:_files -/".to_owned(),
                Some(Value::OneOf(words)) => format!(":value:({})", words.join(" ")),
                Some(Value::Text) => ":value: ".to_owned(),
            };
            for form in option.forms() {
                let _ = writeln!(text, "        '*{form}[{}]{value}' \\", zsh_quoted(&option.help));
            }
        }
        match command.name {
            "" => text.push_str("        '1: :_berth_commands' '*:: :->rest'\n    [[ $state == rest ]] || return\n    (( $+functions[_berth_$words[1]] )) && _berth_$words[1]\n"),
            _ => {
                let mut number = 1;
                if !command.words.is_empty() {
                    let _ = writeln!(text, "        '1:value:({})' \\", command.words.join(" "));
                    number = 2;
                }
                if command.takes_id {
                    let _ = writeln!(text, "        '{number}:container:_berth_ids' \\");
                }
                text.push_str("        '*:file:_files'\n");
            }
        }
        text.push_str("}\n\n");
    }
    text + ZSH_TAIL
}

fn fish_quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

fn fish(commands: &[Completed]) -> String {
    let names = names(commands);
    let mut text = String::new();
    for command in commands {
        let condition = match command.name {
            "" => format!("not __fish_seen_subcommand_from {names}"),
            name => format!("__fish_seen_subcommand_from {name}"),
        };
        let mut line = |rest: String| text.push_str(&format!("complete -c berth -n '{condition}' {rest}\n"));
        for option in &command.options {
            let short = option.short.map_or_else(String::new, |short| format!(" -s {short}"));
            let value = match &option.value {
                None => String::new(),
                Some(Value::File) => " -r -F".to_owned(),
                Some(Value::Directory) => " -x -a '(__fish_complete_directories)'".to_owned(),
                Some(Value::OneOf(words)) => format!(" -x -a '{}'", words.join(" ")),
                Some(Value::Text) => " -x".to_owned(),
            };
            line(format!("-l {}{short}{value} -d '{}'", option.long, fish_quoted(&option.help)));
        }
        if !command.words.is_empty() {
            line(format!("-f -a '{}'", command.words.join(" ")));
        }
        if command.takes_id {
            line("-f -a '(berth list --quiet 2> /dev/null)'".to_owned());
        }
        if command.name.is_empty() {
            for command in &commands[1..] {
                line(format!("-f -a {} -d '{}'", command.name, fish_quoted(command.about)));
            }
        }
    }
    text
}
