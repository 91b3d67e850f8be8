//! The options of a container that containerd passes on: those of runc, which its users know, in three forms.

use std::path::Path;

use prost::Message;

use super::messages::{Any, AnyRuntimeOptions, Options};
use crate::error::{Context, Error, Result};
use crate::files;

/// Of a file with options, which has a few lines.
const MAX_CONFIG: usize = 1 << 20;

pub const RUNC: &str = "containerd.runc.v1.Options";
/// The form for runtimes that containerd does not know: the CRI plugin has only this one for `io.containerd.berth.v2`.
const ANY: &str = "runtimeoptions.v1.Options";

fn name(options: &Any) -> &str {
    options.type_url.rsplit('/').next().unwrap_or_default()
}

/// Whether they are in a form that is read here.
pub fn is_known(options: &Any) -> bool {
    [RUNC, ANY].contains(&name(options))
}

/// Whether they are in runc's own form. Docker, and the CRI plugin of containerd 1.6, use it for runc's shim only, and
/// tell other shims nothing of it.
pub fn are_runcs(options: &Any) -> bool {
    name(options) == RUNC
}

/// Options of another runtime mean nothing here.
pub fn read(options: &Any) -> Result<Options> {
    let wrong = |e: prost::DecodeError| Error::new(format_args!("options {:?}: {e}", options.type_url));
    match name(options) {
        RUNC => Options::decode(&*options.value).map_err(wrong),
        ANY => {
            let AnyRuntimeOptions { config_path, config_body } =
                AnyRuntimeOptions::decode(&*options.value).map_err(wrong)?;
            let body = match config_path.as_str() {
                "" => config_body,
                path => files::read_own(Path::new(path), MAX_CONFIG)?,
            };
            let text = String::from_utf8(body).map_err(|_| Error::new("the runtime's options are not UTF-8"))?;
            from_toml(&text).context("options of the runtime")
        }
        _ => Ok(Options::default()),
    }
}

/// The names are those of containerd's configuration for runc: `SystemdCgroup = true`. Each is one line with a plain
/// value.
fn from_toml(text: &str) -> Result<Options> {
    let mut options = Options::default();
    // Tables have no option of ours.
    for line in text.lines().map(str::trim).take_while(|line| !line.starts_with('[')) {
        let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else { continue };
        let (key, value) = (key.trim(), value.trim());
        let known = match key {
            "NoPivotRoot" => flag(value).map(|value| options.no_pivot_root = value),
            "NoNewKeyring" => flag(value).map(|value| options.no_new_keyring = value),
            "ShimCgroup" => string(value).map(|value| options.shim_cgroup = value),
            "IoUid" => plain(value).parse().ok().map(|value| options.io_uid = value),
            "IoGid" => plain(value).parse().ok().map(|value| options.io_gid = value),
            "BinaryName" => string(value).map(|value| options.binary_name = value),
            "Root" => string(value).map(|value| options.root = value),
            "SystemdCgroup" => flag(value).map(|value| options.systemd_cgroup = value),
            "CriuImagePath" => string(value).map(|value| options.criu_image_path = value),
            "CriuWorkPath" => string(value).map(|value| options.criu_work_path = value),
            _ => Some(()),
        };
        let form = match key {
            "NoPivotRoot" | "NoNewKeyring" | "SystemdCgroup" => "true or false",
            "IoUid" | "IoGid" => "a number",
            _ => "a text in quotes",
        };
        known.ok_or_else(|| Error::new(format_args!("{key} = {value} is not understood: {form}")))?;
    }
    Ok(options)
}

/// Without a comment.
fn plain(value: &str) -> &str {
    value.split('#').next().unwrap_or_default().trim()
}

fn flag(value: &str) -> Option<bool> {
    plain(value).parse().ok()
}

/// A `"basic"` string (its escapes are those of JSON) or a `'literal'` one.
fn string(value: &str) -> Option<String> {
    let (quote, rest) = value.split_at_checked(1)?;
    let text = match quote {
        "'" => {
            return rest.split_once('\'').filter(|(_, rest)| plain(rest).is_empty()).map(|(text, _)| text.to_owned());
        }
        _ => value,
    };
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let string = strings.next()?.ok()?;
    plain(&text[strings.byte_offset()..]).is_empty().then_some(string)
}

#[cfg(fuzzing)]
pub fn fuzz(text: &str) {
    let _ = from_toml(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_toml(text: &str) -> Result<Options> {
        let value = AnyRuntimeOptions { config_path: String::new(), config_body: text.into() };
        read(&Any::new("runtimeoptions.v1.Options", &value))
    }

    #[test]
    fn the_options_of_the_cri_plugin_are_a_text() {
        let text = "# a comment = true\nSystemdCgroup = true # yes\nIoUid = 7\n ShimCgroup = \"/a\\\"b\" # c\n\
                    Root = '/r#'\nOther = [1,\n2]\n[table]\nNoPivotRoot = true\n";
        let wanted = Options {
            systemd_cgroup: true,
            io_uid: 7,
            shim_cgroup: "/a\"b".into(),
            root: "/r#".into(),
            ..Options::default()
        };
        assert_eq!(read_toml(text).unwrap(), wanted);
        assert_eq!(read_toml("").unwrap(), Options::default());
    }

    #[test]
    fn a_value_that_is_not_understood_is_an_error() {
        for (line, form) in [
            ("SystemdCgroup = yes", "true or false"),
            ("ShimCgroup = /a", "a text in quotes"),
            ("ShimCgroup = \"a", "a text in quotes"),
            ("ShimCgroup = \"a\" b", "a text in quotes"),
            ("IoUid = -1", "a number"),
        ] {
            let e = read_toml(line).unwrap_err().to_string();
            assert!(e.ends_with(&format!("{line} is not understood: {form}")), "{line}: {e}");
        }
    }

    #[test]
    fn the_text_may_be_in_a_file() {
        let path = std::env::temp_dir().join(format!("berth-options-{}", std::process::id()));
        std::fs::write(&path, "SystemdCgroup = true").unwrap();
        let value = AnyRuntimeOptions { config_path: path.to_str().unwrap().into(), config_body: Vec::new() };
        let any = Any::new("types.containerd.io/runtimeoptions.v1.Options", &value);
        assert!(read(&any).unwrap().systemd_cgroup);
        std::fs::remove_file(&path).unwrap();
        assert!(read(&any).is_err());
    }

    #[test]
    fn other_runtimes_have_other_options() {
        assert_eq!(read(&Any { type_url: "some.Options".into(), value: vec![0xff] }).unwrap(), Options::default());
        assert!(read(&Any { type_url: RUNC.into(), value: vec![0xff] }).is_err());
    }
}
