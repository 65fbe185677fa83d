//! The client program. See `toctoc::app::client`.

fn main() -> std::process::ExitCode {
    toctoc::app::client::main()
}
