//! The daemon's entry.

fn main() -> std::process::ExitCode {
    bearerd::process::main()
}
