//! Finds Debian's DPDK, makes the bindings, compiles the C shim and says what to link.
//!
//! Everything that is missing is reported by its Debian package. No environment variable is
//! needed; `LIBCLANG_PATH`, `CC` and `PKG_CONFIG` are honoured as their tools define them.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

// `drives` is for the crate.
#[allow(dead_code, unreachable_pub)]
mod drivers;

/// The releases whose structures and inline functions this crate's Rust rewrites were compared
/// with: ABI 23.0. Another release needs a look at `src/ethdev.rs`, `src/mbuf.rs` and
/// `src/mempool.rs` first.
const SUPPORTED: std::ops::Range<&str> = "22.11".."22.12";

fn main() {
    for path in ["build", "c"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed=LIBCLANG_PATH");
    let libdir = probe();
    let cflags = cflags();
    find_libclang();
    bind(&cflags);
    compile_shim(&cflags);
    link(&libdir);
}

/// Ends the build with a message that says what to do.
fn fail(message: &str) -> ! {
    eprintln!("\nerror: {message}\n");
    exit(1);
}

/// Checks that DPDK is there in a supported release; returns where its libraries are.
fn probe() -> PathBuf {
    let any = pkg_config::Config::new()
        .cargo_metadata(false)
        .env_metadata(true)
        .probe("libdpdk");
    let library = any.unwrap_or_else(|e| {
        fail(&format!(
            "DPDK is not installed: apt install libdpdk-dev pkg-config\n{e}"
        ))
    });
    let minor = |version: &str| -> Vec<u32> {
        version
            .split('.')
            .take(2)
            .map_while(|part| part.parse().ok())
            .collect()
    };
    let found = minor(&library.version);
    if found < minor(SUPPORTED.start) || found >= minor(SUPPORTED.end) {
        fail(&format!(
            "DPDK {} is installed, but dpdk-sys is written for {} up to, not including, {} \
             (Debian 12 has it: apt install libdpdk-dev)",
            library.version, SUPPORTED.start, SUPPORTED.end
        ));
    }
    match pkg_config::get_variable("libdpdk", "libdir") {
        Ok(dir) => PathBuf::from(dir),
        Err(e) => fail(&format!("libdpdk.pc names no libdir: {e}")),
    }
}

/// The compiler flags of DPDK's headers, whole: they carry `-include rte_config.h` and
/// `-march=corei7`, which the pkg-config crate would leave out.
fn cflags() -> Vec<String> {
    let tool = std::env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let out = Command::new(&tool).args(["--cflags", "libdpdk"]).output();
    let out = out.unwrap_or_else(|e| fail(&format!("{tool}: {e}: apt install pkg-config")));
    if !out.status.success() {
        fail(&format!(
            "{tool} --cflags libdpdk: {}",
            String::from_utf8_lossy(&out.stderr)
        ));
    }
    String::from_utf8_lossy(&out.stdout)
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Points bindgen to the newest libclang under /usr/lib/llvm-*, unless the caller chose one.
fn find_libclang() {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return;
    }
    let version = |path: &Path| -> u32 {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.trim_start_matches("llvm-").parse().unwrap_or(0)
    };
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| version(path) > 0 && has_libclang(&path.join("lib")))
        .collect();
    found.sort_by_key(|path| version(path));
    match found.pop() {
        // SAFETY: the build script has one thread.
        Some(path) => unsafe { std::env::set_var("LIBCLANG_PATH", path.join("lib")) },
        None => fail(
            "no libclang under /usr/lib/llvm-*/lib, bindgen needs one: \
             apt install libclang-14-dev, or set LIBCLANG_PATH to its folder",
        ),
    }
}

fn has_libclang(dir: &Path) -> bool {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libclang.so") || name.starts_with("libclang-") && name.contains(".so")
        })
}

/// Makes `bindings.rs`. Only what is listed, and what that needs, is bound.
fn bind(cflags: &[String]) {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let mut builder = bindgen::Builder::default()
        .header("c/wrapper.h")
        .clang_args(cflags)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .parse_callbacks(Box::new(Flags))
        // Macros whose value is an expression (RTE_BIT64) are evaluated by clang itself.
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(&out)
        .use_core()
        .derive_default(false)
        .layout_tests(true)
        .generate_comments(false)
        .merge_extern_blocks(true)
        // Packed structures that hold aligned ones, which Rust cannot say (E0588).
        .opaque_type("rte_arp_hdr")
        .opaque_type("rte_arp_ipv4")
        .opaque_type("rte_l2tpv2_combined_msg_hdr")
        .opaque_type("rte_gtp_psc_generic_hdr");
    for line in include_str!("bound.txt").lines() {
        builder = match line.split_once(' ') {
            Some(("fn", name)) => builder.allowlist_function(name),
            Some(("type", name)) => builder.allowlist_type(name),
            Some(("var", name)) => builder.allowlist_var(name),
            _ => builder,
        };
    }
    let bindings = builder.generate().unwrap_or_else(|e| {
        fail(&format!(
            "bindgen: {e}\n(headers of clang: apt install libclang-common-14-dev)"
        ))
    });
    if let Err(e) = bindings.write_to_file(out.join("bindings.rs")) {
        fail(&format!("bindings.rs: {e}"));
    }
}

/// Makes all flags of 64-bit fields 64 bits wide, not just those above bit 31.
#[derive(Debug)]
struct Flags;

impl bindgen::callbacks::ParseCallbacks for Flags {
    fn int_macro(&self, name: &str, _value: i64) -> Option<bindgen::callbacks::IntKind> {
        let flags = [
            "RTE_MBUF_F_",
            "RTE_ETH_RX_OFFLOAD_",
            "RTE_ETH_TX_OFFLOAD_",
            "RTE_ETH_RSS_",
        ];
        let is_flag = flags.iter().any(|prefix| name.starts_with(prefix));
        is_flag.then_some(bindgen::callbacks::IntKind::U64)
    }
}

fn compile_shim(cflags: &[String]) {
    let mut build = cc::Build::new();
    build
        .file("c/shim.c")
        .file("c/clock.c")
        .opt_level(3)
        .warnings(true)
        .extra_warnings(true);
    for flag in cflags {
        build.flag(flag);
    }
    if let Err(e) = build.try_compile("shunt_dpdk_shim") {
        fail(&format!("c/*.c: {e}\n(apt install gcc libc6-dev)"));
    }
}

fn link(libdir: &Path) {
    println!("cargo:rustc-link-search=native={}", libdir.display());
    if std::env::var_os("CARGO_FEATURE_DYNAMIC").is_some() {
        // Drivers, buses and mempool handlers are plugins: EAL loads its plugin directory.
        for library in ["eal", "ring", "mempool", "mbuf", "ethdev", "kvargs", "hash"] {
            println!("cargo:rustc-link-lib=dylib=rte_{library}");
        }
        return;
    }
    let archives: BTreeSet<&str> = drivers::DRIVERS
        .iter()
        .flat_map(|d| d.needs.iter().chain([&d.archive]))
        .chain(drivers::CORE)
        .copied()
        .collect();
    let missing: Vec<_> = archives
        .iter()
        .filter(|a| !libdir.join(format!("librte_{a}.a")).exists())
        .collect();
    if !missing.is_empty() {
        fail(&format!(
            "DPDK's static libraries are missing ({missing:?}): apt install libdpdk-dev"
        ));
    }
    for archive in archives {
        // Whole, because drivers register themselves in constructors that nothing refers to. Not
        // bundled into our rlib, so that the archives are not copied with every build.
        println!("cargo:rustc-link-lib=static:+whole-archive,-bundle=rte_{archive}");
    }
    let system: BTreeSet<&str> = drivers::DRIVERS
        .iter()
        .flat_map(|d| d.system)
        .chain(drivers::CORE_SYSTEM)
        .copied()
        .collect();
    for library in system {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
}
