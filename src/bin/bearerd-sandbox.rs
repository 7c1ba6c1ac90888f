//! The sandbox's entry.

fn main() -> std::process::ExitCode {
    bearerd::sandbox::main()
}
