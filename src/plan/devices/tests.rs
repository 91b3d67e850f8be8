use super::program::{op, register};
use super::*;

fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
    DeviceRule { allow, kind: kind.into(), major, minor, access: access.into() }
}

fn deny_all() -> DeviceRule {
    rule(false, "", None, None, "rwm")
}

/// One access, as the kernel checks it.
#[derive(Clone, Copy, Debug)]
struct Request {
    kind: Type,
    major: u32,
    minor: u32,
    access: Access,
}

/// The program's answer, by an interpreter for the instructions that it uses.
fn run(program: &[Instruction], request: Request) -> bool {
    let kind = if request.kind == Type::Block { 1 } else { 2 };
    let context = [u32::from(request.access.0) << 16 | kind, request.major, request.minor];
    let mut registers = [0_u32; 11];
    let (mut at, mut steps) = (0, 0);
    loop {
        steps += 1;
        assert!(steps <= program.len(), "the program does not end");
        let Instruction { code, dst, src, offset, immediate } = program[at];
        let (dst, source) = (usize::from(dst), registers[usize::from(src)]);
        let immediate = immediate.cast_unsigned();
        at += 1;
        let mut jump = |condition: bool| at = if condition { at.strict_add_signed(offset.into()) } else { at };
        match code {
            op::LOAD_WORD => {
                assert_eq!(src, register::CONTEXT, "only the context is loaded from");
                registers[dst] = context[usize::try_from(offset).unwrap() / 4];
            }
            op::MOVE_IMMEDIATE => registers[dst] = immediate,
            op::MOVE => registers[dst] = source,
            op::AND => registers[dst] &= immediate,
            op::SHIFT_RIGHT => registers[dst] >>= immediate,
            op::JUMP_EQUAL => jump(registers[dst] == immediate),
            op::JUMP_NOT_EQUAL => jump(registers[dst] != immediate),
            op::JUMP_ABOVE => jump(registers[dst] > immediate),
            op::JUMP_BELOW => jump(registers[dst] < immediate),
            op::JUMP_NOT_BELOW => jump(registers[dst] >= immediate),
            op::EXIT => return registers[0] == 1,
            other => panic!("opcode {other:#x}"),
        }
    }
}

/// The list word for word, with the defaults behind it.
fn spelled_out(list: &[DeviceRule]) -> Vec<Rule> {
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map(|n| u32::try_from(n).unwrap());
    let mut all = Vec::new();
    for rule in list {
        for kind in [Type::Block, Type::Char] {
            if matches!((rule.kind.as_str(), kind), ("b", Type::Char) | ("c", Type::Block)) {
                continue;
            }
            let devices = Devices { kind, major: number(rule.major), minor: number(rule.minor) };
            all.push(Rule { allow: rule.allow, devices, access: Access::parse(&rule.access).unwrap() });
        }
    }
    all.extend(defaults());
    all
}

/// The meaning of the list: for each kind of access the last rule for it decides.
fn meant(all: &[Rule], request: Request) -> bool {
    [1, 2, 4].into_iter().filter(|bit| request.access.0 & bit != 0).all(|bit| {
        let speaks = |rule: &&Rule| {
            rule.devices.kind == request.kind
                && rule.devices.major.is_none_or(|n| n == request.major)
                && rule.devices.minor.is_none_or(|n| n == request.minor)
                && rule.access.0 & bit != 0
        };
        all.iter().rev().find(speaks).is_some_and(|rule| rule.allow)
    })
}

/// The answer of the v1 kernel after these lines were written (security/device_cgroup.c).
fn v1(lines: &[(bool, String)], request: Request) -> bool {
    let mut default_allow = true;
    let mut exceptions: Vec<(char, String, String, Access)> = Vec::new();
    for (deny, line) in lines {
        if line == "a" {
            (default_allow, exceptions) = (!deny, Vec::new());
            continue;
        }
        assert_eq!(*deny, default_allow, "only exceptions to the default follow");
        let fields: Vec<&str> = line.split([' ', ':']).collect();
        let kind = fields[0].chars().next().unwrap();
        exceptions.push((kind, fields[1].into(), fields[2].into(), Access::parse(fields[3]).unwrap()));
    }
    let matches = |(kind, major, minor, _): &&(char, String, String, Access)| {
        *kind == (if request.kind == Type::Block { 'b' } else { 'c' })
            && (major == "*" || *major == request.major.to_string())
            && (minor == "*" || *minor == request.minor.to_string())
    };
    let mut matching = exceptions.iter().filter(matches);
    if default_allow {
        !matching.any(|(.., access)| access.0 & request.access.0 != 0)
    } else {
        matching.any(|(.., access)| request.access.0 & !access.0 == 0)
    }
}

fn requests() -> Vec<Request> {
    let mut all = Vec::new();
    for kind in [Type::Block, Type::Char] {
        for major in [1, 2, 10, 136, u32::MAX] {
            for minor in [1, 3, 200, u32::MAX] {
                all.extend((1..8).map(|bits| Request { kind, major, minor, access: Access(bits) }));
            }
        }
    }
    all
}

/// Few different words, so that rules overlap; from a generator that always gives the same.
fn lists() -> Vec<Vec<DeviceRule>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let mut lists = vec![Vec::new(), vec![deny_all()], vec![rule(true, "a", None, Some(-1), "rwm")]];
    for _ in 0..200 {
        let length = draw(6);
        let rules = (0..length).map(|_| {
            let number = [None, Some(1), Some(2), Some(3), Some(-1), Some(i64::from(u32::MAX))];
            let access = ["r", "w", "m", "rw", "wm", "rwm"];
            rule(draw(2) == 0, ["a", "b", "c", ""][draw(4)], number[draw(6)], number[draw(6)], access[draw(6)])
        });
        lists.push(rules.collect());
    }
    lists
}

#[test]
fn the_program_means_what_the_list_means() {
    let requests = requests();
    for list in lists() {
        let (program, all) = (rules(&list).unwrap().program().unwrap(), spelled_out(&list));
        for request in &requests {
            assert_eq!(run(&program, *request), meant(&all, *request), "{request:?} of {list:?}");
        }
    }
}

/// v1 never allows what the list forbids. It may forbid two kinds of access at once that two exceptions allow.
#[test]
fn v1_lines_mean_no_more_than_the_list() {
    let (requests, mut refused, mut kept) = (requests(), 0, 0);
    for list in lists() {
        let Ok(lines) = rules(&list).unwrap().lines() else {
            refused += 1;
            continue;
        };
        kept += 1;
        let all = spelled_out(&list);
        for request in &requests {
            let (is, should) = (v1(&lines, *request), meant(&all, *request));
            let single = request.access.0.count_ones() == 1;
            assert!(if single { is == should } else { !is || should }, "{request:?} of {list:?} by {lines:?}");
        }
    }
    assert!(kept > 50 && refused > 10, "{kept} {refused}");
}

#[test]
fn v1_lines_of_what_engines_ask_for() {
    let lines = |list: &[DeviceRule]| -> Vec<String> {
        let letter = |(deny, line): (bool, String)| format!("{}{line}", if deny { '-' } else { '+' });
        rules(list).unwrap().lines().unwrap().into_iter().map(letter).collect()
    };
    let basics = [
        "+c *:* m",
        "+b *:* m",
        "+c 1:3 rwm",
        "+c 1:8 rwm",
        "+c 1:7 rwm",
        "+c 5:0 rwm",
        "+c 1:5 rwm",
        "+c 1:9 rwm",
        "+c 136:* rwm",
        "+c 5:2 rwm",
        "+c 10:200 rwm",
    ];
    let usual: Vec<_> = ["-a"].iter().chain(&basics).copied().collect();
    assert_eq!(lines(&[]), usual);
    assert_eq!(lines(&[deny_all()]), usual);
    // Docker's list repeats the defaults.
    let docker = [
        deny_all(),
        rule(true, "c", Some(1), Some(5), "rwm"),
        rule(true, "c", None, None, "m"),
        rule(false, "c", Some(10), Some(229), "rwm"),
    ];
    assert!(rules(&docker).unwrap().lines().is_err(), "a hole in c *:* m");
    assert_eq!(lines(&docker[..3]).len(), usual.len());
    assert_eq!(lines(&[rule(true, "a", None, None, "rwm")]), ["+a"]);
    let fuse = rule(true, "c", Some(10), Some(229), "rwm");
    assert_eq!(lines(&[deny_all(), fuse.clone()])[1], "+c 10:229 rwm");
    assert_eq!(lines(&[fuse, deny_all()]), usual);
    let wide = [rule(true, "c", Some(1), None, "rwm"), rule(true, "c", Some(1), Some(3), "r")];
    assert!(!lines(&wide).contains(&"+c 1:3 rwm".to_owned()), "covered by c 1:*");
    let all_but = [rule(true, "a", None, None, "rwm"), rule(false, "b", Some(8), None, "rw")];
    assert_eq!(lines(&all_but), ["+a", "-b 8:* rw"]);
    assert_eq!(lines(&[deny_all(), rule(false, "c", Some(1), Some(11), "rwa")]), usual);
}

#[test]
fn a_rule_that_is_wrong_is_named() {
    for (rule, message) in [
        (rule(true, "c", None, None, ""), "/linux/resources/devices/1/access: device access cannot be empty"),
        (rule(true, "c", None, None, "rx"), "/linux/resources/devices/1/access: \"rx\" is not made of r, w and m"),
        (rule(true, "c", None, None, "ra"), "/linux/resources/devices/1/access: \"ra\" is not made of r, w and m"),
        (rule(true, "p", None, None, "r"), "/linux/resources/devices/1/type: invalid cgroup device type \"p\""),
        (rule(true, "c", Some(-2), None, "r"), "/linux/resources/devices/1/major: -2 is not a device number"),
        (rule(true, "c", None, Some(1 << 32), "r"), "/linux/resources/devices/1/minor: 4294967296 is not"),
    ] {
        let error = rules(&[deny_all(), rule]).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn a_privileged_container_needs_no_program() {
    let unified = [Directory { unified: true, ..Directory::default() }];
    let program = |list: &[DeviceRule]| match plan(list, &unified).unwrap() {
        Some(DeviceWrites::Program { program, .. }) => program,
        other => panic!("{other:?}"),
    };
    assert!(program(&[rule(true, "", None, None, "rwm")]).is_none());
    assert!(program(&[]).is_some());
    assert!(program(&[rule(true, "", None, None, "rw")]).is_some());
}

#[test]
fn no_devices_controller_is_an_error() {
    let memory = [Directory { controllers: vec!["memory".into()], ..Directory::default() }];
    assert!(plan(&[], &memory).is_err());
    assert_eq!(plan(&[], &[]).unwrap(), None);
}

/// As on a node with many devices, or where single partitions are handed out.
#[test]
fn thousands_of_rules_fit_and_mean_what_the_list_means() {
    let many = |number: fn(i64) -> (i64, i64), access: fn(i64) -> &'static str| -> Vec<DeviceRule> {
        let rule_of = |i| rule(i % 7 != 3, "c", Some(number(i).0), Some(number(i).1), access(i));
        [deny_all()].into_iter().chain((0..2000).map(rule_of)).collect()
    };
    for list in [
        many(|i| (10 + i % 500, i), |_| "rwm"),
        many(|i| (10 + i % 500, i), |i| ["rw", "r", "rwm", "w"][i as usize % 4]),
        many(|i| (200, i * 3), |_| "rw"),
        many(|i| (i * 2, 7), |_| "r"),
        many(|i| (5, i), |_| "rw"),
    ] {
        let (program, all) = (rules(&list).unwrap().program().unwrap(), spelled_out(&list));
        assert!(program.len() < 20_000, "{}", program.len());
        for number in (0..list.len() as i64).step_by(61).map(|i| list[i as usize].clone()) {
            let (major, minor) = (number.major.unwrap_or(9) as u32, number.minor.unwrap_or(9) as u32);
            for (major, minor) in [(major, minor), (major, minor + 1), (major + 1, minor), (major, u32::MAX)] {
                for access in 1..8 {
                    let request = Request { kind: Type::Char, major, minor, access: Access(access) };
                    assert_eq!(run(&program, request), meant(&all, request), "{request:?}");
                }
            }
        }
    }
}

#[test]
fn neighbours_are_one_and_what_is_too_much_is_refused() {
    let length = |list: &[DeviceRule]| rules(list).unwrap().program().map(|program| program.len());
    let one = length(&[deny_all(), rule(true, "b", Some(8), Some(0), "rw")]).unwrap();
    let row: Vec<_> = (0..5000).map(|minor| rule(true, "b", Some(8), Some(minor), "rw")).collect();
    assert_eq!(length(&row).unwrap(), one + 1);
    let grid =
        (0..2000).flat_map(|i| [rule(true, "c", Some(i * 2), None, "r"), rule(true, "c", None, Some(i * 2), "w")]);
    let error = length(&grid.collect::<Vec<_>>()).unwrap_err().to_string();
    assert!(error.starts_with("/linux/resources/devices: too many rules"), "{error}");
}
