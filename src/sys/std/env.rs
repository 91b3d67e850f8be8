pub mod consts {
    pub const ARCH: &str = if cfg!(target_arch = "x86_64") { "x86_64" } else { "aarch64" };
}
