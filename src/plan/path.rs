//! Paths taken as text: no file system is asked, so symbolic links are not seen.

use std::path::{Component, Path, PathBuf};

/// `/a/./b/../c/` becomes `a/c`: what a path means from the root if none of its components is a symbolic link.
pub fn clean(path: &str) -> String {
    clean_path(Path::new(path)).to_string_lossy().into_owned()
}

/// As [`clean`], for a path that need not be UTF-8.
pub fn clean_path(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// A path below another one, whether it begins with `/` or not. `None` if it has a `..`.
pub fn below(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    (!leads_up(path)).then(|| clean_path(path))
}

/// Whether the path has a `..`.
pub fn leads_up(path: &Path) -> bool {
    path.components().any(|component| component == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaned_paths() {
        for (path, cleaned) in [
            ("/", ""),
            ("/a//b/", "a/b"),
            ("../../x/./y/..", "x"),
            ("a", "a"),
            ("", ""),
            ("./a", "a"),
            ("/a/./b/../c/", "a/c"),
        ] {
            assert_eq!(clean(path), cleaned);
        }
    }

    #[test]
    fn paths_below() {
        for (path, inside) in
            [("/", Some("")), ("/a//b/", Some("a/b")), ("./a", Some("a")), ("..", None), ("a/../b", None)]
        {
            assert_eq!(below(path).as_deref(), inside.map(Path::new), "{path}");
        }
        assert!(!leads_up(Path::new("/a/..b")));
    }
}
