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
        command.arg(shell.help("the shell"))
    },
    run: |global, matches| {
        let (commands, program) = (commands(), &global.program);
        print(&match get_string(matches, "shell").as_deref() {
            Some("bash") => bash(&commands, program),
            Some("zsh") => zsh(&commands, program),
            _ => fish(&commands, program),
        })?;
        Ok(0)
    },
    failure: 1,
    usage: 1,
};

/// A command as shells need to know it. The first has no name and holds the global options.
struct Completed {
    name: &'static str,
    about: &'static str,
    options_end: bool,
    options: Vec<Opt>,
    operands: Vec<Operand>,
}

/// The words for one operand of the command.
enum Operand {
    Containers,
    OneOf(Vec<String>),
    File,
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
            _ if shape.contains('|') => Self::OneOf(shape.split('|').map(str::to_owned).collect()),
            _ if shape.ends_with("DIR") => Self::Directory,
            _ if shape.ends_with("FILE") || shape.ends_with("SOCKET") => Self::File,
            _ => Self::Text,
        }
    }
}

impl Operand {
    fn of(arg: &Arg) -> Option<Self> {
        match arg.get_id().as_str() {
            "id" => Some(Self::Containers),
            "signal" => {
                let with = |prefix: &'static str| super::signal::names().map(move |name| format!("{prefix}{name}"));
                Some(Self::OneOf(with("").chain(with("SIG")).collect()))
            }
            "file" => Some(Self::File),
            _ => Some(possible(arg)).filter(|words| !words.is_empty()).map(Self::OneOf),
        }
    }
}

fn possible(arg: &Arg) -> Vec<String> {
    let values = if arg.get_action().takes_values() { arg.get_possible_values() } else { Vec::new() };
    values.iter().map(PossibleValue::get_name).map(str::to_owned).collect()
}

fn completed(name: &'static str, about: &'static str, options_end: bool, mut command: clap::Command) -> Completed {
    // With `--help`.
    command.build();
    let options = command.get_arguments().filter_map(Opt::of).collect();
    let operands = command.get_positionals().filter_map(Operand::of).collect();
    Completed { name, about, options_end, options, operands }
}

fn commands() -> Vec<Completed> {
    let mut all = vec![completed("", "", true, super::global_options("berth"))];
    all.extend(COMMANDS.iter().map(|command| {
        let options = (command.options)(super::base(command.name, command.about));
        completed(command.name, command.about, command.options_end, options)
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

/// The shell splits `--root=DIR` into three words, which are as they were typed. `compgen -W` and `eval` would execute
/// a command that such a word, or an id, has in it.
const BASH_HEAD: &str = r#"_berth_typed() {
    local word=${1//[\"\'\\]/}
    [[ $word != '~'/* ]] || word=$HOME/${word:2}
    printf %s "$word"
}

_berth_ids() {
    local id
    while IFS= read -r id; do
        [[ $id != "$current"* ]] || COMPREPLY+=("$(printf %q "$id")")
    done < <("$(_berth_typed "${COMP_WORDS[0]}")" "${root[@]}" list --quiet 2> /dev/null)
}

_berth() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= i operand=0
    local options= files= directories= texts= valued= words= ends=
    local -a root operands
    if [[ $current == = ]]; then
        current=
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
"#;

const BASH_MIDDLE: &str = r#"            -*) ;;
            *) command=${COMP_WORDS[i]}; break ;;
        esac
    done
    case $command in
"#;

const BASH_TAIL: &str = r#"    esac
    for ((i++; i < COMP_CWORD; i++)); do
        if [[ " $valued " == *" ${COMP_WORDS[i]} "* ]]; then
            [[ ${COMP_WORDS[++i]} != = ]] || ((i++))
        elif [[ ${COMP_WORDS[i]} != -* ]]; then
            ((operand++))
        fi
    done
    COMPREPLY=()
    [[ -z $ends || $operand == 0 ]] || return
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
    elif [[ -n $command && ${operands[operand]} == @containers ]]; then
        _berth_ids
        return
    elif [[ -n $command ]]; then
        words=${operands[operand]}
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
"#;

fn bash(commands: &[Completed], program: &str) -> String {
    let mut text = String::from(BASH_HEAD);
    text.push_str("            --root|-r)\n                [[ ${COMP_WORDS[++i]} != = ]] || ((i++))\n");
    text.push_str("                root=(--root \"$(_berth_typed \"${COMP_WORDS[i]}\")\") ;;\n");
    let valued = forms(&commands[0], |option| option.value.is_some() && option.long != "root").replace(' ', "|");
    let _ = writeln!(text, "            {valued}) [[ ${{COMP_WORDS[++i]}} != = ]] || ((i++)) ;;");
    text.push_str(BASH_MIDDLE);
    for command in commands {
        let is = |wanted: fn(&Value) -> bool| forms(command, move |option| option.value.as_ref().is_some_and(wanted));
        let _ = writeln!(text, "    {})", if command.name.is_empty() { "''" } else { command.name });
        for (variable, value) in [
            ("options", forms(command, |_| true)),
            ("valued", forms(command, |option| option.value.is_some())),
            ("files", is(|value| matches!(value, Value::File))),
            ("directories", is(|value| matches!(value, Value::Directory))),
            ("texts", is(|value| matches!(value, Value::Text))),
            // What follows the container has options of its own.
            ("ends", if command.options_end { "yes".to_owned() } else { String::new() }),
            ("words", if command.name.is_empty() { names(commands) } else { String::new() }),
        ] {
            if !value.is_empty() {
                let _ = writeln!(text, "        {variable}='{value}'");
            }
        }
        let operands: Vec<_> = command.operands.iter().map(|operand| format!("'{}'", bash_operand(operand))).collect();
        if !operands.is_empty() {
            let _ = writeln!(text, "        operands=({})", operands.join(" "));
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
    text + BASH_TAIL + &format!("complete -o default -F _berth {program}\n")
}

/// Without words, the shell offers files.
fn bash_operand(operand: &Operand) -> String {
    match operand {
        Operand::Containers => "@containers".to_owned(),
        Operand::OneOf(words) => words.join(" "),
        Operand::File => String::new(),
    }
}

/// For a word in single quotes that `_arguments` reads: brackets and colons are special there.
fn zsh_quoted(text: &str) -> String {
    text.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:")
}

/// `--root` before the command names the directory of the containers.
const ZSH_HEAD: &str = r#"_berth_ids() {
    local -a root ids
    local i
    for ((i = 2; i < $#berth_line; i++)); do
        case $berth_line[i] in
            (--root|-r) root=(--root ${${(Q)berth_line[i+1]}/#\~\//$HOME/}); ((i++)) ;;
            (--root=*) root=(--root ${${(Q)${berth_line[i]#--root=}}/#\~\//$HOME/}) ;;
            (-*) ;;
            (*) (( ! $+functions[_berth_$berth_line[i]] )) || break ;;
        esac
    done
    ids=(${(f)"$(${${(Q)berth_line[1]}/#\~\//$HOME/} $root list --quiet 2> /dev/null)"})
    compadd -a ids
}

_berth_commands() {
    local -a commands=(
"#;

fn zsh(commands: &[Completed], program: &str) -> String {
    let mut text = format!("#compdef {program}\n\n{ZSH_HEAD}");
    for command in &commands[1..] {
        let _ = writeln!(text, "        '{}:{}'", command.name, zsh_quoted(command.about));
    }
    text.push_str("    )\n    _describe command commands\n}\n\n");
    for command in commands {
        let name = if command.name.is_empty() { String::new() } else { format!("_{}", command.name) };
        let _ = writeln!(text, "_berth{name}() {{\n    local context state line");
        if command.name.is_empty() {
            text.push_str("    local -a berth_line=($words)\n");
        }
        // What follows the command, or the container of `exec`, has options of its own.
        let own = if command.options_end { " -A '-*'" } else { "" };
        let _ = writeln!(text, "    _arguments -C{own} \\");
        for option in &command.options {
            let value = match &option.value {
                None => String::new(),
                Some(Value::File) => ":file:_files".to_owned(),
                Some(Value::Directory) => ":directory:_files -/".to_owned(),
                Some(Value::OneOf(words)) => format!(":value:({})", words.join(" ")),
                Some(Value::Text) => ":value: ".to_owned(),
            };
            for form in option.forms() {
                // `--option=value` is one word.
                let joined = if form.starts_with("--") && option.value.is_some() { "=" } else { "" };
                let _ = writeln!(text, "        '*{form}{joined}[{}]{value}' \\", zsh_quoted(&option.help));
            }
        }
        match command.name {
            "" => text.push_str("        '1: :_berth_commands' '*:: :->rest'\n    [[ $state == rest ]] || return\n    (( $+functions[_berth_$words[1]] )) && _berth_$words[1]\n"),
            _ => {
                for (number, operand) in (1..).zip(&command.operands) {
                    let action = match operand {
                        Operand::Containers => "container:_berth_ids".to_owned(),
                        Operand::OneOf(words) => format!("value:({})", words.join(" ")),
                        Operand::File => "file:_files".to_owned(),
                    };
                    let _ = writeln!(text, "        '{number}:{action}' \\");
                }
                text.push_str("        '*:file:_files'\n");
            }
        }
        text.push_str("}\n\n");
    }
    // Whether it was read as a whole or, by the first line, as the function of this name.
    text + &format!("if [[ $funcstack[1] == _{program} ]]; then _berth \"$@\"; else compdef _berth {program}; fi\n")
}

fn fish_quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

/// `__berth_parsed` prints the command, the number of its arguments, and the root: each a line, maybe an empty one.
const FISH_HEAD: &str = r#"function __berth_parsed
    set -l valued VALUED
    set -l line (commandline -opc)
    set -l command
    set -l operand 0
    set -l root
    set -l skip 0
    for i in (seq 2 (count $line))
        set -l word $line[$i]
        if test $skip = 1
            set skip 0
        else if contains -- "$word" $valued
            set skip 1
            test -z "$command"; and contains -- "$word" --root -r; and set root $line[(math $i + 1)]
        else if string match -q -- '-*' "$word"
            test -z "$command"; and string match -q -- '--root=*' "$word"; and set root (string sub -s 8 -- $word)
        else if test -z "$command"
            set command $word
            switch $command
"#;

/// `__berth_at COMMAND [NUMBER]`: whether the cursor is in that command, behind so many of its arguments.
const FISH_TAIL: &str = r#"            end
        else
            set operand (math $operand + 1)
        end
    end
    printf '%s\n' "$command" $operand "$root"
end
function __berth_at
    set -l at (__berth_parsed)
    test "$at[1]" = "$argv[1]"; and test (count $argv) = 1 -o "$at[2]" = "$argv[2]"
end
function __berth_ids
    set -l line (commandline -opc)
    set -l at (__berth_parsed)
    set -l root
    test -n "$at[3]"; and set root --root (string replace -r '^~/' $HOME/ -- $at[3])
    set -l program (string replace -r '^~/' $HOME/ -- $line[1])
    command $program $root list --quiet 2> /dev/null
end
"#;

fn fish(commands: &[Completed], program: &str) -> String {
    let valued = |command: &Completed| forms(command, |option| option.value.is_some());
    let mut text = FISH_HEAD.replace("VALUED", &valued(&commands[0]));
    for command in &commands[1..] {
        let _ =
            writeln!(text, "                case {}\n                    set valued {}", command.name, valued(command));
    }
    text.push_str(FISH_TAIL);
    for command in commands {
        // What follows the container has options of its own.
        let options = if command.options_end { " 0" } else { "" };
        let mut line = |place: &str, rest: &str| {
            let at = if command.name.is_empty() { "\"\"" } else { command.name };
            text.push_str(&format!("complete -c {program} -n '__berth_at {at}{place}' {rest}\n"));
        };
        for option in &command.options {
            let short = option.short.map_or_else(String::new, |short| format!(" -s {short}"));
            let value = match &option.value {
                None => String::new(),
                Some(Value::File) => " -r -F".to_owned(),
                Some(Value::Directory) => " -x -a '(__fish_complete_directories)'".to_owned(),
                Some(Value::OneOf(words)) => format!(" -x -a '{}'", words.join(" ")),
                Some(Value::Text) => " -x".to_owned(),
            };
            line(options, &format!("-l {}{short}{value} -d '{}'", option.long, fish_quoted(&option.help)));
        }
        for (number, operand) in command.operands.iter().enumerate() {
            let here = format!(" {number}");
            match operand {
                Operand::Containers => line(&here, "-f -a '(__berth_ids)'"),
                Operand::OneOf(words) => line(&here, &format!("-f -a '{}'", words.join(" "))),
                Operand::File => line(&here, "-F"),
            }
        }
        if command.name.is_empty() {
            for command in &commands[1..] {
                line("", &format!("-f -a {} -d '{}'", command.name, fish_quoted(command.about)));
            }
        }
    }
    text
}
