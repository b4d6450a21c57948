//! Tells the linker to lay the code that every start runs side by side: `.cargo/link/order.ld` lists it, `.cargo/link/order`
//! makes that list. What is not run then takes no memory, since the kernel maps pages around each one that is touched.
//! Nothing depends on it but memory and a few page faults: a name that is gone is passed over, and a new one lies
//! where it would have anyway.

fn main() {
    println!("cargo::rerun-if-changed=.cargo/link/order.ld");
    println!("cargo::rerun-if-env-changed=LINK_ORDER");
    #[expect(clippy::disallowed_methods, reason = "cargo tells a build script everything by variables")]
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    // With another linker than the toolchain's own nobody knows whether it reads such a script. LINK_ORDER=off is for
    // whoever chose one in a way that is not seen here.
    let own_linker = var("RUSTC_LINKER").is_empty() && !var("CARGO_ENCODED_RUSTFLAGS").contains("fuse-ld") && var("LINK_ORDER") != "off";
    if own_linker && var("PROFILE") == "release" && var("TARGET") == "x86_64-unknown-linux-gnu" {
        println!("cargo::rustc-link-arg-bins=-T{}/.cargo/link/order.ld", var("CARGO_MANIFEST_DIR"));
    }
}
