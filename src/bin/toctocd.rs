//! The gateway program. See `toctoc::app::daemon`.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    toctoc::app::daemon::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("toctocd: the gateway runs on Linux only; the client is called toctoc");
    std::process::exit(2);
}
