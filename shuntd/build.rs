//! Has DPDK's clock measured in less time, `dpdk-sys/c/clock.c`. Not with shared libraries, which
//! nobody can have call anything else within.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_DYNAMIC").is_none() {
        println!(
            "cargo:rustc-link-arg-bins=-Wl,--undefined=__wrap_get_tsc_freq_arch,\
             --wrap=get_tsc_freq_arch"
        );
    }
}
