//! The client. All it does stands in `toctoc::app`.

fn main() -> std::process::ExitCode {
    toctoc::app::client::main()
}
