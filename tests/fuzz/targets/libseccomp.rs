//! libseccomp, asked as runc asks it (tests/seccomp/export.py).

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::sync::LazyLock;

use berth::internal::plan::seccomp::{ACTIONS, Arch};
use serde_json::Value;

use super::{arches, entries, strings};

/// For LeakSanitizer: libseccomp 2.5 and 2.6 lose memory of their own with some filters.
#[unsafe(no_mangle)]
extern "C" fn __lsan_default_suppressions() -> *const c_char {
    c"leak:libseccomp.so".as_ptr()
}

#[repr(C)]
struct Comparison {
    arg: c_uint,
    op: c_int,
    a: u64,
    b: u64,
}

struct Library {
    init: unsafe extern "C" fn(u32) -> *mut c_void,
    arch_add: unsafe extern "C" fn(*mut c_void, u32) -> c_int,
    attr_set: unsafe extern "C" fn(*mut c_void, c_int, u32) -> c_int,
    rule_add: unsafe extern "C" fn(*mut c_void, u32, c_int, c_uint, *const Comparison) -> c_int,
    export: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    release: unsafe extern "C" fn(*mut c_void),
    resolve: unsafe extern "C" fn(*const c_char) -> c_int,
    resolve_arch: unsafe extern "C" fn(u32, *const c_char) -> c_int,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    // SAFETY: the library is never closed, and the functions have these types (seccomp.h).
    unsafe {
        let library = libc::dlopen(c"libseccomp.so.2".as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null(), "libseccomp.so.2 (Debian: libseccomp2)");
        let find = |name: &CStr| {
            let found = libc::dlsym(library, name.as_ptr());
            assert!(!found.is_null(), "{name:?}");
            found
        };
        use std::mem::transmute;
        Library {
            init: transmute::<*mut c_void, _>(find(c"seccomp_init")),
            arch_add: transmute::<*mut c_void, _>(find(c"seccomp_arch_add")),
            attr_set: transmute::<*mut c_void, _>(find(c"seccomp_attr_set")),
            rule_add: transmute::<*mut c_void, _>(find(c"seccomp_rule_add_array")),
            export: transmute::<*mut c_void, _>(find(c"seccomp_export_bpf")),
            release: transmute::<*mut c_void, _>(find(c"seccomp_release")),
            resolve: transmute::<*mut c_void, _>(find(c"seccomp_syscall_resolve_name")),
            resolve_arch: transmute::<*mut c_void, _>(find(c"seccomp_syscall_resolve_name_arch")),
        }
    }
});

const OPERATORS: [&str; 8] = ["", "NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
const NNP: c_int = 3;
const OPTIMIZE: c_int = 8;
const X32: u32 = 0x4000_003e;

/// `SCMP_ARCH_*` of seccomp.h: the kernel's, but for x32, which has none of its own there.
fn token(arch: &Arch) -> u32 {
    if arch.name() == "SCMP_ARCH_X32" { X32 } else { arch.audit }
}

pub struct Context {
    /// In hexadecimal digits.
    pub program: String,
    pub newest: BTreeMap<String, i32>,
}

impl Context {
    pub fn of(profile: &Value) -> Result<Self, String> {
        let default = action(&profile["defaultAction"]);
        // SAFETY: each call gets a context that is not released yet, and arrays of the lengths that are said.
        unsafe {
            let context = (LIBRARY.init)(default);
            assert!(!context.is_null());
            let filled = fill(context, profile, default).and_then(|()| exported(context));
            (LIBRARY.release)(context);
            let mut known = arches(profile);
            known.push(Arch::native().unwrap());
            let newest = known.into_iter().map(|arch| (arch.name(), newest(profile, arch))).collect();
            Ok(Self { program: filled?, newest })
        }
    }
}

fn action(name: &Value) -> u32 {
    let (name, action) = ACTIONS.iter().find(|(known, _)| name == known).unwrap();
    action | if *name == "SCMP_ACT_ERRNO" { 1 } else { 0 }
}

fn check(code: c_int, what: &str) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("{what}: {code}")) }
}

unsafe fn fill(context: *mut c_void, profile: &Value, default: u32) -> Result<(), String> {
    // SAFETY: as in Context::of.
    unsafe {
        for arch in arches(profile) {
            match (LIBRARY.arch_add)(context, token(arch)) {
                code if code == -libc::EEXIST => {}
                code => check(code, "arch")?,
            }
        }
        check((LIBRARY.attr_set)(context, OPTIMIZE, 2), "optimize")?;
        check((LIBRARY.attr_set)(context, NNP, 0), "nnp")?;
        for entry in entries(profile) {
            let verdict = action(&entry["action"]);
            let args: Vec<_> = entry["args"].as_array().unwrap().iter().map(comparison).collect();
            let repeated = args.iter().enumerate().any(|(i, arg)| args[..i].iter().any(|other| other.arg == arg.arg));
            for name in strings(&entry["names"]) {
                let c_name = CString::new(name).unwrap();
                let number = (LIBRARY.resolve)(c_name.as_ptr());
                if verdict == default || number == -1 {
                    continue;
                }
                let rules: Vec<&[Comparison]> = if repeated { args.chunks(1).collect() } else { vec![&args] };
                for rule in rules {
                    check((LIBRARY.rule_add)(context, verdict, number, rule.len() as c_uint, rule.as_ptr()), name)?;
                }
            }
        }
    }
    Ok(())
}

fn comparison(arg: &Value) -> Comparison {
    let op = arg["op"].as_str().unwrap().trim_start_matches("SCMP_CMP_");
    let op = OPERATORS.iter().position(|known| *known == op).unwrap();
    let number = |field: &str| arg[field].as_u64().unwrap();
    Comparison { arg: number("index") as c_uint, op: op as c_int, a: number("value"), b: number("valueTwo") }
}

unsafe fn exported(context: *mut c_void) -> Result<String, String> {
    // SAFETY: as in Context::of; the new descriptor is nobody else's.
    let mut file = unsafe { std::fs::File::from_raw_fd(libc::memfd_create(c"program".as_ptr(), 0)) };
    // SAFETY: as in Context::of.
    check(unsafe { (LIBRARY.export)(context, file.as_raw_fd()) }, "export")?;
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    }))
}

fn newest(profile: &Value, arch: &Arch) -> i32 {
    let names = entries(profile).flat_map(|entry| strings(&entry["names"]));
    let numbers = names.map(|name| {
        let name = CString::new(name).unwrap();
        // SAFETY: a C string.
        unsafe { (LIBRARY.resolve_arch)(token(arch), name.as_ptr()) }
    });
    numbers.max().unwrap_or(0)
}
